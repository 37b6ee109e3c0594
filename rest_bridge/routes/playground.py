"""The page at `/` where a developer tries the API: static files, and the table of parameters as JSON.

The page loads nothing from other hosts, and its policy (CSP) allows it no inline script and no other host.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response
from starlette.responses import FileResponse

from lodestream_common.parameters import PARAMETERS, Parameter, number_text
from rest_bridge.errors import ROUTE_NOT_FOUND, ApiError
from rest_bridge.openai.responses import json_response

_FILES = Path(__file__).parents[1] / "static" / "playground"
_TYPES = {
    "copies.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "page.js": "text/javascript",
    "request.js": "text/javascript",
    "style.css": "text/css",
    "view.js": "text/javascript",
}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # A browser asks again, so that a new version of the server has its own files.
    "cache-control": "no-cache",
}
_WITH_FIELDS_OF_THEIR_OWN = frozenset({"tools", "prompt"})

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> Response:
    """Send the page."""
    return FileResponse(_FILES / "index.html", media_type="text/html", headers=_HEADERS)


@router.get("/playground/parameters.json")
async def parameters() -> Response:
    """Describe the parameters of a chat completion, as the page makes its fields from them."""
    shown = [_described(one) for one in PARAMETERS.values() if one.name not in _WITH_FIELDS_OF_THEIR_OWN]
    return json_response({"parameters": shown}, _HEADERS)


@router.get("/playground/{name}")
async def file(name: str) -> Response:
    """Send a script or a style of the page.

    Raises:
        ApiError: 404: the page has no such file.

    """
    if name not in _TYPES:
        raise ApiError(ROUTE_NOT_FOUND, "No such file of the playground.")
    return FileResponse(_FILES / name, media_type=_TYPES[name], headers=_HEADERS)


def _described(parameter: Parameter) -> dict[str, Any]:
    """Range and default are texts: 64-bit integers are not exact numbers in a browser."""
    has_range = math.isfinite(parameter.low) and math.isfinite(parameter.high)
    default = parameter.default
    return {
        "name": parameter.name,
        "field": parameter.field,
        "type": parameter.type,
        "meaning": parameter.meaning,
        "range": parameter.range if has_range else None,
        "default_text": "" if default is None else _text(default),
        "unit": parameter.unit,
        "values": parameter.values,
    }


def _text(value: float) -> str:
    return str(value).lower() if isinstance(value, bool) else number_text(value)
