from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "tests.inference_service.backends.contract", "tests.inference_service.backends.contract_options"
)
