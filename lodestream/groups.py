"""The settings as the help groups them: headline → settings."""

from __future__ import annotations

from inference_service.config import ServiceConfig
from lodestream.setting import Setting, settings_of
from lodestream.settings import ALL
from lodestream_common.config import CommonConfig
from rest_bridge.config import BridgeConfig

_SHARED = settings_of(CommonConfig)

COMMON = {"settings of both servers": tuple(_SHARED.values())}
SERVICE = {
    "settings of the service": tuple(s for n, s in settings_of(ServiceConfig).items() if n not in _SHARED)
}
BRIDGE = {
    "settings of the bridge": tuple(s for n, s in settings_of(BridgeConfig).items() if n not in _SHARED)
}


def only(*names: str) -> dict[str, tuple[Setting, ...]]:
    """Pick single settings for a command that needs no more."""
    return {"settings": tuple(ALL[name] for name in names)}
