"""The table of ratios, and the machine it was made on. What a GPU gave is kept; what a CPU gave is overwritten."""

import os
import re
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path

import torch

KEPT = Path(__file__).parent / "results"
PASSING = Path("build") / "benchmarks.md"
HEADER = (
    "| what | case | plain | here | ratio | target |",
    "|---|---|---|---|---|---|",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One ratio. ``plain`` and ``here`` are the medians of the two sides in words, with their unit."""

    what: str
    case: str
    plain: str
    here: str
    ratio: float
    target: float | None = None
    at_most: bool = False  # whether the ratio should be below the target instead of above it

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target

    def __str__(self) -> str:
        told = ""
        if self.target is not None:
            verdict = "" if self.met else ", **missed**"
            told = f"{'at most' if self.at_most else 'at least'} {self.target:g}{verdict}"
        return f"| {self.what} | {self.case} | {self.plain} | {self.here} | {shown(self.ratio)} | {told} |"


def shown(number: float) -> str:
    """Three significant digits."""
    return f"{number:.3g}" if abs(number) < 1000 else f"{number:.0f}"


def milliseconds(seconds: float) -> str:
    return f"{shown(seconds * 1e3)} ms"


def table(rows: list[Row]) -> str:
    """Markdown: the machine, then the rows."""
    return "\n".join([*machine(), "", *HEADER, *map(str, rows), ""])


def machine() -> list[str]:
    """What the figures depend on, as lines of Markdown."""
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    bfloat16 = "with" if native_bfloat16() else "without"
    return [
        f"- {device_name()}; {_cpu()}, {os.cpu_count()} cores, PyTorch at {torch.backends.cpu.get_cpu_capability()}, "
        f"{bfloat16} bfloat16 instructions; PyTorch {torch.__version__}, {_compiled()}",
        f"- load over 1, 5 and 15 minutes: {load}",
    ]


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def native_bfloat16() -> bool:
    """Whether the device multiplies in bfloat16 by itself. Where a CPU does not, it is slower than float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = _cpu_field("flags").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def write(rows: list[Row]) -> Path:
    """Print the table, and leave it where results of this device go."""
    text = table(rows)
    print(text)
    place = PASSING
    if torch.cuda.is_available():
        place = KEPT / f"{re.sub(r'[^A-Za-z0-9]+', '-', device_name()).strip('-')}.md"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    return place


def _compiled() -> str:
    """Where processes may not write bytecode, what was installed without it is compiled anew by each of them."""
    return "compiled to bytecode" if Path(cache_from_source(torch.__file__)).exists() else "not compiled to bytecode"


def _cpu() -> str:
    return _cpu_field("model name") or "an unknown CPU"


def _cpu_field(name: str) -> str:
    """As Linux tells it; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
