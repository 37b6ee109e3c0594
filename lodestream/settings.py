"""Settings from flags, environment variables and a file, validated by the settings models of the servers.

The flags and their help come from the fields of these models. No library does it, because an error must name
the source of a value, and an unknown variable must be an error.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from inference_service.config import ServiceConfig
from lodestream.sources import (
    CONFIG,
    ProvidedValue,
    Setting,
    from_environment,
    from_file,
    from_flags,
    malformed,
    settings_of,
)
from lodestream_common.config import CommonConfig
from lodestream_common.errors import SettingError
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
    """Pick the settings of a command that needs only these."""
    return {"settings": tuple(ALL[name] for name in names)}


Model = TypeVar("Model", bound=BaseModel)

ALL = settings_of(ServiceConfig, BridgeConfig)
"""Every setting of any command; variables and the file may contain all of them."""


def collect(arguments: Namespace) -> dict[str, ProvidedValue]:
    """Collect all values: a flag replaces a variable, and a variable replaces a key in the file.

    Raises:
        SettingError: a name is unknown, or a value is malformed.

    """
    flags = from_flags(vars(arguments), ALL)
    variables = from_environment(os.environ, ALL)
    path = arguments.config or os.environ.get(CONFIG)
    file = from_file(Path(path).expanduser(), ALL) if path else {}
    return {**file, **variables, **flags}


def build(model: type[Model], given: Mapping[str, ProvidedValue]) -> Model:
    """Make one settings model; values that belong to other models are skipped.

    Raises:
        SettingError: a value is malformed; the message has its source.

    """
    values = {name: _ready(ALL[name], given[name].value) for name in model.model_fields if name in given}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _explain(error, given) from None


def load(model: type[Model], arguments: Namespace) -> Model:
    """Collect all values and build one model."""
    return build(model, collect(arguments))


def as_flags(config: BaseModel) -> list[str]:
    """Write the settings that differ from their defaults as arguments."""
    flags = []
    for name, setting in settings_of(type(config)).items():
        value = getattr(config, name)
        if value != setting.default:
            flags += _as_flags(setting, value)
    return flags


def _as_flags(setting: Setting, value: Any) -> list[str]:
    if setting.is_switch:
        return [setting.flag if value else setting.flag.replace("--", "--no-", 1)]
    if setting.is_mapping:
        return [f"{setting.flag}={name}={target}" for name, target in value.items()]
    if setting.is_list:
        return [f"{setting.flag}={one}" for one in value]
    return [f"{setting.flag}={value}"]


def _ready(setting: Setting, value: Any) -> Any:
    # A shell expands ~ only in flags; here variables and the file get the same.
    return Path(value).expanduser() if setting.type is Path and isinstance(value, str) else value


def _explain(error: ValidationError, given: Mapping[str, ProvidedValue]) -> SettingError:
    first = error.errors(include_url=False)[0]
    place: Sequence[Any] = first["loc"]
    if not place or place[0] not in given:
        return SettingError(first["msg"])
    name = str(place[0])
    if first["type"] == "value_error":
        return SettingError(f"{given[name].source}: {first['ctx']['error']}")
    return malformed(ALL[name], given[name])
