"""Generates the README's table of settings. `make readme` renews it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from inference_service.config import ServiceConfig
from lodestream.sources import Setting, settings_of
from lodestream_common.config import CommonConfig
from rest_bridge.config import BridgeConfig

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- settings: begin, by make readme -->\n", "<!-- settings: end -->\n"


def table() -> str:
    """The whole table, in Markdown."""
    rows = ["| flag | default | of | what it sets |", "|---|---|---|---|"]
    groups: list[tuple[str, type[BaseModel]]] = [
        ("both", CommonConfig),
        ("service", ServiceConfig),
        ("bridge", BridgeConfig),
    ]
    seen: set[str] = set()
    for owner, model in groups:
        for name, setting in settings_of(model).items():
            if name not in seen:
                rows.append(_row(owner, setting))
        seen |= set(model.model_fields)
    return "\n".join(rows) + "\n"


def _row(owner: str, setting: Setting) -> str:
    limits = f" ({setting.range})" if setting.range else ""
    text = f"{setting.field.description}{limits}".replace("|", "\\|")
    return f"| `{setting.flag}` | {_default(setting)} | {owner} | {text} |"


def _default(setting: Setting) -> str:
    value = setting.default
    if isinstance(value, Path):
        return f"`{value}`".replace(str(Path.home()), "~")
    return "" if value in (None, "", {}, ()) else f"`{value}`"


def with_table(text: str) -> str:
    """The README with a fresh table."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
