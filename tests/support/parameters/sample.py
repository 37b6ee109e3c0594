"""Samples: requests that use one parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.service import MODEL_ID

Body = Mapping[str, Any]

ALIAS = "another-name"
"""The vocabulary of the served model."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Requests that use one parameter, all with the same outcome."""

    path: str
    """The parameter: `messages[].role`."""
    bodies: tuple[Body, ...]
    """The members that are added to the minimal request; several if the parameter has several forms."""
    beside: Body
    """Further members that the parameter needs, without the parameter itself."""
    when: str
    """The condition for this outcome, if the parameter has several."""
    by_grpc: str
    """The field over gRPC, if the bodies do not show it."""

    @property
    def requests(self) -> list[Body]:
        """All members that are added to the minimal request."""
        return [{**self.beside, **body} for body in self.bodies]


def sample(path: str, *bodies: Body, beside: Body | None = None, when: str = "", by_grpc: str = "") -> Sample:
    """A sample; without a body the parameter's value is an object."""
    return Sample(path, bodies or ({path: {"some": "thing"}},), beside or {}, when, by_grpc)


def minimal_chat(body: Body) -> dict[str, Any]:
    """A chat completion of two tokens."""
    return {"model": MODEL_ID, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, **body}


def minimal_completion(body: Body) -> dict[str, Any]:
    """A text completion of two tokens."""
    return {"model": MODEL_ID, "prompt": "hi", "max_tokens": 2, **body}
