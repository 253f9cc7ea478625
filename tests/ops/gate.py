"""Compiles recorded launches to cubins for GPUs that are not here, and reads what came out.

Run as `python -m ops.gate FILE` without TRITON_INTERPRET: writes a line of JSON per kernel and
architecture. Registers and memory are cuobjdump's, accesses are counted in the disassembly.
"""

import json
import re
import struct
import subprocess
import sys
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ops.real_launches import Launch, recorded, variants

ARCHITECTURES = 80, 90, 100
FP8_ARCHITECTURES = 89, 90, 100  # the first that round to e4m3, in place of 80
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.float8_e4m3fn: "*fp8e4nv",
}
ALIGNMENT = [["tt.divisibility", 16]]
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


def compiled(launch: Launch, architecture: int) -> Any:
    """The kernel, specialised as Triton would at this launch: ones are constants, 16s aligned."""
    names = launch.kernel.arg_names
    values = dict(zip(names, launch.arguments, strict=False))
    values |= {name: value for name, value in launch.options.items() if name in names}
    constant = {p.name for p in launch.kernel.params if p.is_constexpr}
    signature, constants, attributes = {}, {}, {}

    def typed(value: Any, place: tuple[int, ...]) -> Any:
        """The type of an argument; what Triton knows of its value is written down by its place."""
        if isinstance(value, tuple):
            return tuple(typed(each, (*place, i)) for i, each in enumerate(value))
        if names[place[0]] in constant or value is None or (type(value) is int and value == 1):
            constants[place] = value
            return "constexpr"
        if isinstance(value, torch.Tensor):
            if not launch.kernel.params[place[0]].do_not_specialize_on_alignment:
                attributes[place] = ALIGNMENT
            return TYPES[value.dtype]
        if isinstance(value, float):
            return "fp32"
        if value % 16 == 0:
            attributes[place] = ALIGNMENT
        return "i32" if -(2**31) <= value < 2**31 else "i64"

    for index, name in enumerate(names):
        signature[name] = typed(values[name], (index,))
    source = ASTSource(launch.kernel, signature, constants, attributes)
    options = {k: v for k, v in launch.options.items() if k not in names}
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def usage(cubin: bytes) -> dict[str, int]:
    """Registers per thread, bytes of stack and of local memory."""
    said = _tool("cuobjdump", "-res-usage", contents=cubin)
    numbers = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", said)}
    return {"registers": numbers["REG"], "stack": numbers["STACK"], "local": numbers["LOCAL"]}


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


def disassembled(cubins: Sequence[bytes], architecture: int) -> list[str]:
    """The code of each by one call of nvdisasm, whose start takes half a second."""
    codes = [_instructions(cubin) for cubin in cubins]
    ends = list(accumulate(len(code) for code in codes))
    said = _tool("nvdisasm", "--binary", f"SM{architecture}", contents=b"".join(codes))
    texts: list[list[str]] = [[] for _ in cubins]
    for address, instruction in re.findall(r"/\*([0-9a-f]{4,})\*/(.*)", said):
        texts[bisect_right(ends, int(address, 16))].append(instruction)
    assert all(len(code) == 16 * len(text) for code, text in zip(codes, texts, strict=True))
    return ["\n".join(text) for text in texts]


def _instructions(cubin: bytes) -> bytes:
    """The executable bytes of this ELF file."""
    (table,) = struct.unpack_from("<Q", cubin, 40)
    size, count = struct.unpack_from("<HH", cubin, 58)
    headers = (struct.unpack_from("<QQQQ", cubin, table + i * size + 8) for i in range(count))
    return b"".join(
        cubin[offset : offset + length] for flags, _, offset, length in headers if flags & 4
    )


def _tool(name: str, *arguments: str, contents: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(contents)
        file.flush()
        command = [str(TOOLS / name), *arguments, file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def report(launches: Sequence[Launch], architecture: int) -> Iterator[dict[str, Any]]:
    kernels = [compiled(launch, architecture) for launch in launches]
    cubins = [kernel.asm["cubin"] for kernel in kernels]
    distinct = list(dict.fromkeys(cubins))
    counts = {
        cubin: accesses(code) + Counter(usage(cubin))
        for cubin, code in zip(distinct, disassembled(distinct, architecture), strict=True)
    }
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
        }


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
