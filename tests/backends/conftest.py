from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.backends.contract", "tests.backends.contract_options")
