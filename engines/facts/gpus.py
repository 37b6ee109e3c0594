"""The GPUs that engines are planned for: architecture, memory, bandwidth, peak arithmetic.

Figures are those of one GPU, out of NVIDIA's data sheet or white paper named in the row. Peaks are **dense**
(data sheets often print the sparse figure, twice as large) and, where a part is slower with 32-bit
accumulation (GeForce), those with 32-bit accumulation, which language models need.

`usable_bytes` is what CUDA reports as the device's total memory, the lowest that public out-of-memory
messages of that part show: less than the data sheet has, as error correction and the driver keep some.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from engines.errors import PlanRefused, suggestion

KIB = 1024
MIB = 1024**2
GIB = 1024**3

GPUS_PER_NODE = 8
"""The largest single machine that these parts come in."""


@dataclass(frozen=True, slots=True)
class Peaks:
    """Operations a second, dense; None where the hardware has no such units."""

    bf16: float
    fp8: float | None
    int8: float | None
    fp4: float | None

    def of(self, kind: str) -> float:
        """The peak for `bf16`, `fp8`, `int8` or `fp4`; that of bf16 where there are no such units."""
        value: float | None = getattr(self, kind)
        return self.bf16 if value is None else value


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU."""

    name: str
    """As people type it: `h100`."""
    title: str
    sm: int
    """Compute capability without the dot: 90 for 9.0."""
    marketed_gb: int
    """Gigabytes on the data sheet."""
    usable_bytes: int
    bandwidth: float
    """Bytes a second between the memory and the chip."""
    peaks: Peaks
    source: str
    """The data sheet."""


# GB is that of the data sheet, GiB what CUDA reports; peaks are in 10^12 operations a second.
_TABLE = """
name          title                   SM   GB   GiB     GB/s  bf16   fp8     int8    fp4     source
a100-80       A100 SXM 80GB           80   80   79.14   2039  312    -       624     -       A100
a100-80-pcie  A100 PCIe 80GB          80   80   79.14   1935  312    -       624     -       A100
a100-40       A100 40GB               80   40   39.38   1555  312    -       624     -       A100
a10           A10                     86   24   21.96   600   125    -       250     -       A10
a40           A40                     86   48   44.34   696   149.7  -       299.3   -       A40
a6000         RTX A6000               86   48   47.27   768   154.8  -       309.7   -       RTX A6000
l4            L4                      89   24   21.96   300   121    242.5   242.5   -       L4
l40           L40                     89   48   44.34   864   181.1  362.1   362.1   -       L40
l40s          L40S                    89   48   44.34   864   362.1  733     733     -       L40S
rtx4090       GeForce RTX 4090        89   24   23.52   1008  165.2  330.3   660.6   -       Ada
rtx6000-ada   RTX 6000 Ada            89   48   47.27   960   364.2  728.5   728.5   -       RTX 6000 Ada
h100          H100 SXM                90   80   79.10   3350  989.4  1978.9  1978.9  -       H100
h100-pcie     H100 PCIe               90   80   79.10   2039  756.5  1513    1513    -       H100
h100-nvl      H100 NVL                90   94   93.00   3900  835.5  1671    1671    -       H100
h200          H200 SXM                90   141  139.72  4800  989.4  1978.9  1978.9  -       H200
h200-nvl      H200 NVL                90   141  139.72  4800  835.5  1671    1671    -       H200
gh200         GH200 96GB              90   96   94.50   4000  989.4  1978.9  1978.9  -       GH200
b200          B200 SXM                100  180  178.35  8000  2250   4500    4500    9000    HGX
gb200         GB200                   100  186  184.31  8000  2500   5000    5000    10000   GB200 NVL72
b300          B300 SXM                103  288  267.69  8000  2250   4500    125     13500   HGX
rtx5090       GeForce RTX 5090        120  32   31.36   1792  209.5  419     838     1676    Blackwell
rtx-pro-6000  RTX PRO 6000 Blackwell  120  96   94.96   1792  503.8  1007.6  1007.6  2015.2  PRO
"""

# Where the source is more than "NVIDIA <name> data sheet".
_SOURCES = {
    "Ada": "NVIDIA Ada GPU Architecture white paper",
    "Blackwell": "NVIDIA RTX Blackwell GPU Architecture white paper",
    "GB200 NVL72": "NVIDIA GB200 NVL72 data sheet, a 72nd of the rack",
    "HGX": "NVIDIA HGX B200 and B300 data sheet, an eighth of the board",
    "PRO": "NVIDIA RTX PRO 6000 Blackwell Workstation Edition data sheet; the Server Edition has 1,597 GB/s",
}

# The A10G of Amazon's G5 is an A10 with half the tensor units: same memory, lower peaks.
_ALIASES = {
    "4090": "rtx4090",
    "5090": "rtx5090",
    "6000-ada": "rtx6000-ada",
    "a100": "a100-80",
    "a100-80gb": "a100-80",
    "a100-40gb": "a100-40",
    "a10g": "a10",
    "b200-sxm": "b200",
    "b300-sxm": "b300",
    "h100-80": "h100",
    "h100-80gb": "h100",
    "h100-sxm": "h100",
    "h200-sxm": "h200",
    "pro-6000": "rtx-pro-6000",
}


def _row(line: str) -> Gpu:
    name, title, sm, marketed, usable, bandwidth, *tera, source = re.split(r"\s{2,}", line)
    bf16, fp8, int8, fp4 = (None if t == "-" else float(t) * 1e12 for t in tera)
    return Gpu(
        name,
        title,
        int(sm),
        int(marketed),
        int(float(usable) * GIB),
        float(bandwidth) * 1e9,
        Peaks(bf16 or 0.0, fp8, int8, fp4),
        _SOURCES.get(source, f"NVIDIA {source} data sheet"),
    )


GPUS = tuple(_row(line) for line in _TABLE.strip().splitlines()[1:])


def find_gpu(name: str) -> Gpu:
    """Find a GPU by a name in common spellings: `H100`, `NVIDIA L4`, `RTX 4090`, `a100_80`.

    Raises:
        PlanRefused: it is unknown; the message suggests the nearest.

    """
    known = {_letters(spelling): gpu for gpu in GPUS for spelling in (gpu.name, gpu.title)}
    known |= {_letters(alias): known[_letters(target)] for alias, target in _ALIASES.items()}
    gpu = known.get(_letters(name))
    if gpu is None:
        raise PlanRefused(
            "gpu", name, "unknown GPU; " + suggestion(name.lower(), [known.name for known in GPUS])
        )
    return gpu


def _letters(name: str) -> str:
    return re.sub(r"^(nvidia)?(geforce|tesla)?", "", re.sub(r"[^a-z0-9]", "", name.lower()))


def gib(size: float) -> str:
    """Write bytes in GiB: `8.46 GiB`."""
    return f"{size / GIB:.2f} GiB"
