"""Whether config.json still says what the manifest noted after the build."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from engines.engine_config import EngineConfig
from engines.finding import Finding, shown
from engines.manifest import Manifest


def check_against_manifest(config: EngineConfig, manifest: Manifest) -> Iterator[Finding]:
    """Compare them name by name."""
    if config.version != manifest.software.tensorrt_llm:
        yield Finding("version", config.version, f"the manifest's {manifest.software.tensorrt_llm}")
    sections: dict[str, tuple[Any, Any]] = {
        "pretrained_config": (config.shape, manifest.model),
        "pretrained_config.mapping": (config.split, manifest.mapping),
        "pretrained_config.quantization": (config.quantization, manifest.quantization),
        "build_config": (config.limits, manifest.limits),
        "build_config.plugin_config": (config.plugins, manifest.plugins),
    }
    for where, (said, noted) in sections.items():
        expected = asdict(noted)
        for name, value in asdict(said).items():
            if value != expected[name]:
                yield Finding(f"{where}.{name}", shown(value), f"the manifest's {shown(expected[name])}")
