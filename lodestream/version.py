"""`lodestream version`."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from lodestream_common.errors import SettingError

_SHOWN = ("grpcio", "protobuf", "fastapi", "tokenizers", "xllamacpp")


def run(arguments: Sequence[str]) -> int:
    """Print the versions, one `name version` a line."""
    if arguments in (["-h"], ["--help"]):
        print("usage: lodestream version\n\nPrints the versions of lodestream and of what it runs on.")
        return 0
    if arguments:
        raise SettingError(f"{arguments[0]}: version takes no arguments")
    print("lodestream", version("lodestream"))
    print("python", platform.python_version())
    for name in _SHOWN:
        print(name, _version_of(name))
    return 0


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"
