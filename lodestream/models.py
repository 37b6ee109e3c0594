"""The commands `lodestream model list`, `fetch` and `path`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from inference_service.config import ServiceConfig
from lodestream import settings
from lodestream.parser import CommandParser
from lodestream.settings import only
from lodestream_common.errors import OperatorError


def show(arguments: Sequence[str]) -> int:
    """Print the catalog, one model a line."""
    from inference_service.models import catalog

    parser = CommandParser(
        "model list",
        "Lists the catalog: the models that --model accepts by name, with size, licence, and whether they "
        "are fetched already. The first one is the default.",
        only("cache_dir"),
    )
    cache_dir = settings.load(ServiceConfig, parser.parse(arguments)).cache_dir
    for model in catalog.CATALOG:
        state = "fetched" if (cache_dir / model.file_name).is_file() else "not fetched"
        print(f"{model.id}  {model.size / 1e6:.0f} MB  {model.licence}  {state}  {model.title}")
    return 0


def fetch(arguments: Sequence[str]) -> int:
    """Fetch a model, with progress on stderr; its path goes to stdout."""
    parser = _model_parser(
        "model fetch",
        "Fetches a model into the cache, unless it is there, verifies it and prints its path.",
    )
    config = _config(parser, arguments)
    from inference_service.models import catalog, loader

    print(loader.resolve(config.model or catalog.DEFAULT_ID, config.cache_dir, show_progress=True).path)
    return 0


def path(arguments: Sequence[str]) -> int:
    """Print the path of a fetched model; a model that is not fetched is an error."""
    parser = _model_parser("model path", "Prints the path of a model's file, without fetching it.")
    config = _config(parser, arguments)
    # The hub's library reads this when it is imported. It then uses only its cache.
    os.environ["HF_HUB_OFFLINE"] = "1"
    from inference_service.models import catalog, loader

    reference = config.model or catalog.DEFAULT_ID
    model = catalog.find(reference)
    if model and not (config.cache_dir / model.file_name).is_file():
        raise OperatorError(f"{model.id} is not fetched; see: lodestream model fetch {model.id}")
    print(loader.resolve(reference, config.cache_dir, show_progress=False).path)
    return 0


def _model_parser(command: str, about: str) -> CommandParser:
    parser = CommandParser(
        command, about, only("model", "cache_dir"), [f"lodestream {command}"], operands="[MODEL]"
    )
    parser.add_argument("operand", nargs="?", metavar="MODEL", help="the same as --model")
    return parser


def _config(parser: CommandParser, arguments: Sequence[str]) -> ServiceConfig:
    parsed = parser.parse(arguments)
    if parsed.operand is not None:
        parsed.model = parsed.operand
    return settings.load(ServiceConfig, parsed)
