"""What `lodestream up` says once both servers are ready."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence

_REQUEST = {
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France?"},
    ],
    "max_tokens": 100,
    "temperature": 0,
}

_BANNER = """
lodestream is ready; Ctrl-C ends it.

  REST    http://{http}
  gRPC    {grpc}
  model   {model}{aliases}
{note}
{doors}

Try it:

{curl}
"""

_OPEN = """\
No API key exists, so the servers are open: anybody on this machine may call them. They listen on loopback
only. To close them: lodestream keys create --name NAME"""

_GUARDED = """\
Callers need an API key. A new one: KEY=$(lodestream keys create --name NAME)"""


def banner(*, http: str, grpc: str, names: Sequence[str], note: str | None, guarded: bool) -> str:
    """Write the addresses, the model id, who may call, and a curl line to paste.

    Args:
        http: `host:port` of the bridge, as callers on this machine reach it.
        grpc: `host:port` of the service, likewise.
        names: what requests may call the model: its id, then its aliases.
        note: what else there is to say about the model.
        guarded: whether callers need a key; the line then takes it out of $KEY.

    """
    model, *aliases = names
    return _BANNER.format(
        http=http,
        grpc=grpc,
        model=model,
        aliases=f" (also {', '.join(aliases)})" if aliases else "",
        note=f"\n{textwrap.fill(note, 100)}\n" if note else "",
        doors=_GUARDED if guarded else _OPEN,
        curl=curl(http, model, guarded),
    )


def curl(http: str, model: str, guarded: bool) -> str:
    """Write a chat request for a POSIX shell."""
    body = json.dumps({"model": model, **_REQUEST}).replace("'", "'\\''")
    lines = [f"curl http://{http}/v1/chat/completions", "-H 'Content-Type: application/json'"]
    if guarded:
        lines.append('-H "Authorization: Bearer $KEY"')
    return " \\\n  ".join([*lines, f"-d '{body}'"])
