"""The route `/metrics`, which Prometheus scrapes."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from lodestream_common.keys import Level
from lodestream_common.metrics import expose
from rest_bridge.openapi import KEY_ERRORS, SECURED
from rest_bridge.request import admit, bridge_of

router = APIRouter(tags=["metrics"])


@router.get(
    "/metrics",
    response_model=None,
    responses={
        200: {
            "description": "The metrics, as Prometheus text or OpenMetrics.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **KEY_ERRORS,
    },
    openapi_extra=SECURED,
)
async def metrics(request: Request) -> Response:
    """Write the bridge's metrics: Prometheus text, or OpenMetrics where the request accepts it."""
    admit(request, Level.READ_ONLY)
    counts = bridge_of(request).metrics
    assert counts is not None  # noqa: S101  the app has this route only where there are metrics
    found = expose(counts.exposed, request.headers.get("accept"))
    return Response(found.body, headers={"content-type": found.content_type})
