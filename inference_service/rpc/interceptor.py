"""Chooses the handler of each RPC: ours, or a library's with our check of the caller."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from inference_service.errors import UnknownMethod
from inference_service.rpc.call import RunningCalls
from lodestream_common.keys import Level

_OWN = ("/lodestream.inference.", "/trtllm.TrtllmService/")
"""The handlers of these methods check their callers, each for the level that the method needs."""
_HEALTH = "/grpc.health.v1.Health/"
"""Health checks need no key."""

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]]


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Checks the keys of calls to reflection, and refuses unknown methods with our own status."""

    def __init__(self, calls: RunningCalls) -> None:
        self._calls = calls

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any]:
        method = str(handler_call_details.method)
        handler = await continuation(handler_call_details)
        if handler is None:
            # The caller chose the name freely, so it does not go into the log.
            return self._calls.refused("unknown", UnknownMethod())
        if not method.startswith((*_OWN, _HEALTH)):
            return self._calls.observed(handler, method.rpartition("/")[2], Level.READ_ONLY)
        return handler
