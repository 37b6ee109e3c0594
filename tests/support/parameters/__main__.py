from __future__ import annotations

import asyncio

from tests.support.parameters.engines import load_engines
from tests.support.parameters.page import PAGE, render

if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render(asyncio.run(load_engines())), encoding="utf-8")
