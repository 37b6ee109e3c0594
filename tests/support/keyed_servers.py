"""Both servers with API keys, and callers with a key each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lodestream_common.keys import KeyFile, Priority
from tests.support.transports import Callers, Transports, running_transports


@dataclass(frozen=True, slots=True)
class KeyedServers:
    """A service and a bridge that require keys."""

    transports: Transports
    keys: KeyFile
    callers: Mapping[str, Callers]
    """By the names of their keys."""


@asynccontextmanager
async def keyed_servers(
    directory: Path, *names: str, priorities: Mapping[str, Priority] | None = None, **service: Any
) -> AsyncIterator[KeyedServers]:
    """Serve both until the context ends, with a key for each name; no limit of requests a minute.

    Other arguments are fields of ServiceConfig.
    """
    keys = KeyFile(directory / "keys.json")
    usual = dict.fromkeys(names, Priority.INTERACTIVE)
    tokens = {
        name: keys.create(name, priority=priority)[1]
        for name, priority in (usual | dict(priorities or {})).items()
    }
    service = {"requests_per_minute": 0, "keys_file": keys.path, **service}
    async with running_transports(**service) as transports:
        callers = {
            name: Callers(transports.client, transports.http, key=token) for name, token in tokens.items()
        }
        yield KeyedServers(transports, keys, callers)
