"""The README's table of settings is current."""

from __future__ import annotations

import pytest

from tests.support import readme


def test_the_table_of_settings_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """The README lists every setting with its default and range; `make readme` renews it."""
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    text = readme.README.read_text(encoding="utf-8")

    assert readme.with_table(text) == text
