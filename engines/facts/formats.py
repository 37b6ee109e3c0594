"""Weight and KV cache formats of the compiled path, and which GPU architecture supports which.

The tables are those of TensorRT-LLM 1.2.1's engine path: what its builder refuses, what the hardware lacks,
and what is unverified. An unverified combination is allowed; a plan that has one warns about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from engines.errors import PlanRefused, suggestion

Arithmetic = Literal["bf16", "fp8", "int8", "fp4"]


class Support(Enum):
    """Whether a GPU architecture takes a format."""

    YES = "yes"
    UNVERIFIED = "unverified"
    NO = "no"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether, and if not plainly so, why."""

    support: Support
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """How the layers' matrices are stored and multiplied; embedding, output and norms stay in 16 bits."""

    name: str
    """As people type it: `int4-awq`."""
    algo: str | None
    """The member of TensorRT-LLM's QuantAlgo; None: not quantised."""
    bits: int
    """Of one weight."""
    group: int | None
    """Weights that share a scale; None: scales are few enough to leave out."""
    scale_bytes: int
    """Of one group's scale, and of its zero point where it has one."""
    arithmetic: Arithmetic
    """In which the matrices are multiplied."""

    @property
    def is_quantized(self) -> bool:
        return self.algo is not None

    @property
    def has_fp8_attention(self) -> bool:
        """Whether the builder allows FP8 context attention with it."""
        return self.algo in ("FP8", "W4A8_AWQ", "NVFP4")

    def bytes_of(self, weights: int) -> int:
        """How many bytes that many weights take, scales included."""
        scales = weights // self.group * self.scale_bytes if self.group else 0
        return weights * self.bits // 8 + scales


FORMATS = {
    f.name: f
    for f in (
        WeightFormat("bf16", None, 16, None, 0, "bf16"),
        WeightFormat("fp16", None, 16, None, 0, "bf16"),
        WeightFormat("fp8", "FP8", 8, None, 0, "fp8"),
        WeightFormat("fp8-rowwise", "FP8_PER_CHANNEL_PER_TOKEN", 8, None, 0, "fp8"),
        WeightFormat("nvfp4", "NVFP4", 4, 16, 1, "fp4"),
        WeightFormat("int4-awq", "W4A16_AWQ", 4, 128, 2, "bf16"),
        WeightFormat("int4-gptq", "W4A16_GPTQ", 4, 128, 4, "bf16"),
        WeightFormat("w4a8-awq", "W4A8_AWQ", 4, 128, 2, "fp8"),
        WeightFormat("int8-sq", "W8A8_SQ_PER_CHANNEL", 8, None, 0, "int8"),
        WeightFormat("int8-wo", "W8A16", 8, None, 0, "bf16"),
        WeightFormat("int4-wo", "W4A16", 4, None, 0, "bf16"),
    )
}

CONVERTED_INT8_KV = frozenset({"bf16", "fp16", "int8-wo", "int4-wo"})
"""Weight formats that convert_checkpoint makes, and with which it can calibrate an INT8 KV cache.
quantize.py of 1.2.1 cannot: it enables a quantizer that modelopt 0.37 does not read, and the engine gets a
16-bit cache."""

KV_BYTES = {"bf16": 2, "fp8": 1, "int8": 1}
"""KV-cache formats, and the bytes of one element; `bf16` stands for whatever 16 bits the model has."""

_COLUMNS = (80, 86, 89, 90, 100, 120)
_YES = Verdict(Support.YES)
_NO_FP8 = Verdict(Support.NO, "FP8 needs SM 89 or newer")
_NO_FP4 = Verdict(Support.NO, "NVFP4 needs SM 100 or newer")
_NO_W4A8 = Verdict(Support.NO, "INT4 weights with FP8 activations need SM 89 or newer")
_NO_INT = Verdict(Support.NO, "the builder refuses INT8 and INT4 on SM 100 to 119")
_NO_INT_KV = Verdict(Support.NO, "the builder refuses an INT8 KV cache on SM 100 to 119")
_NO_ROWWISE = Verdict(Support.NO, "the builder refuses FP8 rowwise on SM 100 to 119")
_UNSURE = Verdict(Support.UNVERIFIED, "it is not verified on this architecture")
_UNSURE_INT = Verdict(Support.UNVERIFIED, "the builder's check ends below SM 120; it is not verified there")
_UNSURE_W4A8 = Verdict(
    Support.UNVERIFIED, "the builder refuses INT4 on SM 100 to 119, and may take this for it"
)

_INTEGER = (_YES, _YES, _YES, _YES, _NO_INT, _UNSURE_INT)
_WEIGHTS: dict[str, tuple[Verdict, ...]] = {
    #               SM 80     86        89        90        100, 103      120
    "bf16": (_YES, _YES, _YES, _YES, _YES, _YES),
    "fp16": (_YES, _YES, _YES, _YES, _YES, _YES),
    "fp8": (_NO_FP8, _NO_FP8, _YES, _YES, _YES, _UNSURE),
    "fp8-rowwise": (_NO_FP8, _NO_FP8, _UNSURE, _YES, _NO_ROWWISE, _UNSURE),
    "nvfp4": (_NO_FP4, _NO_FP4, _NO_FP4, _NO_FP4, _YES, _UNSURE),
    "int4-awq": _INTEGER,
    "int4-gptq": _INTEGER,
    "w4a8-awq": (_NO_W4A8, _NO_W4A8, _YES, _YES, _UNSURE_W4A8, _UNSURE),
    "int8-sq": _INTEGER,
    "int8-wo": _INTEGER,
    "int4-wo": _INTEGER,
}
_KV: dict[str, tuple[Verdict, ...]] = {
    "bf16": (_YES, _YES, _YES, _YES, _YES, _YES),
    "fp8": (_YES, _YES, _YES, _YES, _YES, _YES),
    "int8": (_YES, _YES, _YES, _YES, _NO_INT_KV, _UNSURE),
}


def find_format(name: str) -> WeightFormat:
    """Find a weight format by its name, in any case, `_` for `-`.

    Raises:
        PlanRefused: there is none.

    """
    plain = name.lower().replace("_", "-")
    if plain not in FORMATS:
        raise PlanRefused("quantization", name, "unknown format; " + suggestion(plain, FORMATS))
    return FORMATS[plain]


def find_kv_cache(name: str) -> str:
    """Find a KV-cache format by its name, in any case.

    Raises:
        PlanRefused: the compiled path has none of that name.

    """
    plain = name.lower()
    if plain == "nvfp4":
        reason = "the compiled path has no NVFP4 KV cache (only the PyTorch path has); take fp8"
        raise PlanRefused("kv_cache", name, reason)
    plain = "bf16" if plain == "fp16" else plain
    if plain not in KV_BYTES:
        raise PlanRefused("kv_cache", name, "unknown format; " + suggestion(plain, KV_BYTES))
    return plain


def weight_verdict(form: WeightFormat, sm: int) -> Verdict:
    """Whether that architecture takes engines with such weights."""
    return _WEIGHTS[form.name][_column(sm)]


def kv_verdict(kv_cache: str, sm: int) -> Verdict:
    """Whether that architecture takes engines with such a KV cache."""
    return _KV[kv_cache][_column(sm)]


def paged_context_obstacle(form: WeightFormat, kv_cache: str, sm: int) -> str | None:
    """Why the builder would switch paged-context attention off; None where it stays on.

    KV reuse and chunked prefill need it. The builder only logs a warning when it switches it off.
    """
    if kv_cache == "int8":
        return "the builder switches paged-context attention off with an INT8 KV cache"
    if kv_cache == "fp8" and sm < 89:
        return "FP8 context attention needs SM 89, and without it paged-context attention is switched off"
    if kv_cache == "fp8" and not form.has_fp8_attention:
        return (
            "paged-context attention on an FP8 KV cache needs FP8 context attention, which the builder "
            "allows with fp8, w4a8-awq and nvfp4 weights only"
        )
    return None


def default_kv_cache(form: WeightFormat, sm: int) -> str:
    """The smallest KV cache that keeps paged-context attention."""
    return "bf16" if paged_context_obstacle(form, "fp8", sm) else "fp8"


def _column(sm: int) -> int:
    return max(i for i, least in enumerate(_COLUMNS) if sm >= least)
