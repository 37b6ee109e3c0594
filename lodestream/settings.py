"""Settings out of flags, environment variables and a file, checked by the servers' own models.

Flags and help are made here, from the fields of the models, rather than by a library: an error has to name
the place a value came from, and a variable that nobody knows has to be one.
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
    ProvidedValues,
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
    """Pick single settings for a command that needs no more."""
    return {"settings": tuple(ALL[name] for name in names)}


Model = TypeVar("Model", bound=BaseModel)

ALL = settings_of(ServiceConfig, BridgeConfig)
"""Every setting that any command knows; variables and files may hold all of them."""


def collect(arguments: Namespace) -> dict[str, ProvidedValues]:
    """Gather what is set anywhere: a flag beats a variable, and a variable beats the file.

    Raises:
        SettingError: something is unknown or malformed.

    """
    flags = from_flags(vars(arguments), ALL)
    variables = from_environment(os.environ, ALL)
    path = arguments.config or os.environ.get(CONFIG)
    file = from_file(Path(path).expanduser(), ALL) if path else {}
    return {**file, **variables, **flags}


def build(model: type[Model], given: Mapping[str, ProvidedValues]) -> Model:
    """Make a settings model of what is given, leaving out what belongs to other models.

    Raises:
        SettingError: a value is malformed; names where it came from.

    """
    values = {name: _ready(ALL[name], given[name].value) for name in model.model_fields if name in given}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _explain(error, given) from None


def load(model: type[Model], arguments: Namespace) -> Model:
    """Collect and build in one step."""
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
    return [f"{setting.flag}={value}"]


def _ready(setting: Setting, value: Any) -> Any:
    # A shell expands ~ in most flags; variables and files get the same here.
    return Path(value).expanduser() if setting.type is Path and isinstance(value, str) else value


def _explain(error: ValidationError, given: Mapping[str, ProvidedValues]) -> SettingError:
    first = error.errors(include_url=False)[0]
    place: Sequence[Any] = first["loc"]
    if not place or place[0] not in given:
        return SettingError(first["msg"])
    name = str(place[0])
    if first["type"] == "value_error":
        return SettingError(f"{given[name].source}: {first['ctx']['error']}")
    return malformed(ALL[name], given[name])
