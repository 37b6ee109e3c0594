"""How a parameter is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.service import MODEL_ID

Body = Mapping[str, Any]

ALIAS = "another-name"
"""Of the served model."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Requests that use one parameter, all with the same outcome."""

    path: str
    """The parameter: `messages[].role`."""
    bodies: tuple[Body, ...]
    """What is added to the least request; several where the parameter has several forms."""
    beside: Body
    """What is added too, so that the parameter can be used; the same without the parameter itself."""
    when: str
    """Where the parameter has several outcomes: with which values, or in which company, it has this one."""
    by_grpc: str
    """How gRPC has it, where the bodies do not show it."""

    @property
    def requests(self) -> list[Body]:
        """What is added to the least request, in all."""
        return [{**self.beside, **body} for body in self.bodies]


def sample(path: str, *bodies: Body, beside: Body | None = None, when: str = "", by_grpc: str = "") -> Sample:
    """A sample; without a body the parameter is some object."""
    return Sample(path, bodies or ({path: {"some": "thing"}},), beside or {}, when, by_grpc)


def least_chat(body: Body) -> dict[str, Any]:
    """A chat completion of two tokens."""
    return {"model": MODEL_ID, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, **body}


def least_completion(body: Body) -> dict[str, Any]:
    """A text completion of two tokens."""
    return {"model": MODEL_ID, "prompt": "hi", "max_tokens": 2, **body}
