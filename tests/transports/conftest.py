from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lodestream_common import logs
from tests.support.service import MODEL_ID
from tests.support.tensorrt import make_engine

ServeEngine = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def serve_engine(
    double: object, llama31_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> ServeEngine:
    """Settings that serve a compiled engine on the double, under the default model's id.

    Arguments are of the double's script.
    """

    def settings(**script: Any) -> dict[str, Any]:
        directory = tmp_path_factory.mktemp("engines") / MODEL_ID
        make_engine(directory, llama31_files, script=script)
        return {"backend": "tensorrt_llm", "engine": directory}

    return settings


@pytest.fixture(autouse=True, scope="session")
def plain_logs() -> None:
    """Log as the servers do. By default structlog spends seconds on the colours of a traceback."""
    logs.configure("info", "json", "service")
