"""Compiles recorded launches to cubins for GPUs that are not here, and reads what came out.

Run as `python -m ops.gate FILE` without TRITON_INTERPRET: writes a line of JSON per kernel and
architecture. Registers and memory are cuobjdump's, accesses are counted in the disassembly, and
what it takes to issue it on an H200 is `bench.sass.model`'s.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl

from bench.sass.compiled import compiled, disassembled, usage
from bench.sass.launches import Launch, recorded, variants
from bench.sass.model import H200, estimate

ARCHITECTURES = 80, 90, 100
FP8_ARCHITECTURES = 89, 90, 100  # the first that round to e4m3, in place of 80
COUNTED = "registers", "stack", "local", "wide_loads", "loads", "wide_stores", "stores"


@triton.jit
def _spilling_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    """Keeps 256 values per thread alive across a reduction, where 255 registers are."""
    offs = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs)
    tl.store(out_ptr + offs, x / tl.sum(x, axis=0))


def planted() -> Launch:
    x = torch.empty(8192, dtype=torch.float32, device="meta")
    options = {"BLOCK": 8192, "num_warps": 1}
    return Launch("planted spill", "none", torch.float32, _spilling_kernel, (x, x), options)


def accesses(code: str) -> Counter[str]:
    """Counts of accesses to global memory by their width, and to local memory."""
    loads = re.findall(r"\b(?:LDG|LDGSTS)\.E\S*", code)
    stores = re.findall(r"\bSTG\.E\S*", code)
    return Counter(
        local=len(re.findall(r"\b(?:LDL|STL)\b", code)),
        wide_loads=sum("128" in load for load in loads),
        loads=len(loads),
        wide_stores=sum("128" in store for store in stores),
        stores=len(stores),
    )


def report(launches: Sequence[Launch], architecture: int) -> Iterator[dict[str, Any]]:
    kernels = [compiled(launch, architecture) for launch in launches]
    cubins = [kernel.asm["cubin"] for kernel in kernels]
    distinct = list(dict.fromkeys(cubins))
    codes = dict(zip(distinct, disassembled(distinct, architecture), strict=True))
    counts = {cubin: accesses(code) + Counter(usage(cubin)) for cubin, code in codes.items()}
    for launch, kernel, cubin in zip(launches, kernels, cubins, strict=True):
        yield {
            "op": launch.op,
            "shapes": launch.shapes,
            "kernel": launch.kernel.__name__,
            "file": launch.kernel.fn.__module__.rpartition(".")[2],
            "dtype": str(launch.dtype).removeprefix("torch."),
            "architecture": architecture,
            "shared": kernel.metadata.shared,
            **{name: counts[cubin][name] for name in COUNTED},
            "issue": _issue(launch, codes[cubin], counts[cubin]["registers"], architecture),
        }


def _issue(launch: Launch, code: str, registers: int, architecture: int) -> float | None:
    """Issue time over the time of its bytes, where the model knows the chip and bytes limit."""
    if architecture != H200.architecture or not launch.minimum_bytes:
        return None
    return estimate(launch, code, registers).ratio


def takes_fp8(launch: Launch) -> bool:
    return any(getattr(each, "dtype", None) == torch.float8_e4m3fn for each in launch.arguments)


def all_lines(launches: Sequence[Launch]) -> Iterator[dict[str, Any]]:
    """The report of every launch for each architecture that has what it takes."""
    for architecture in sorted({*ARCHITECTURES, *FP8_ARCHITECTURES}):
        wanted = (architecture in ARCHITECTURES, architecture in FP8_ARCHITECTURES)
        yield from report([each for each in launches if wanted[takes_fp8(each)]], architecture)


if __name__ == "__main__":
    lines = all_lines([planted(), *recorded(), *variants()])
    Path(sys.argv[1]).write_text("".join(json.dumps(line) + "\n" for line in lines))
