"""The door before services that are not ours: reflection, and methods nobody has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from inference_service.access import Access
from inference_service.call import Calls
from inference_service.errors import ServiceError, UnknownMethod
from lodestream_common.keys import Level

_OWN = "/lodestream.inference."
"""Our own servicers check their callers themselves, with the level that each method needs."""
_HEALTH = "/grpc.health.v1.Health/"
"""Probes carry no key."""

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]]


class Guard(grpc.aio.ServerInterceptor):
    """Asks for a key where the service itself does not, and answers unknown methods in our own form."""

    def __init__(self, access: Access, calls: Calls) -> None:
        self._access = access
        self._calls = calls

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any]:
        method = str(handler_call_details.method)
        handler = await continuation(handler_call_details)
        if handler is None:
            # The caller made up its name: it is no word for the log.
            return self._calls.refused("unknown", UnknownMethod())
        if not method.startswith((_OWN, _HEALTH)):
            caller = self._access.identify(handler_call_details.invocation_metadata or ())
            try:
                self._access.admit(caller, Level.READ_ONLY)
            except ServiceError as error:
                return self._calls.refused(method.rpartition("/")[2], error)
        return handler
