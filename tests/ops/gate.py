"""Compiles recorded launches to cubins for GPUs that are not here, and reads what came out.

Run as `python -m ops.gate FILE` without TRITON_INTERPRET: writes a line of JSON per kernel and
architecture. Registers and memory are cuobjdump's, accesses are counted in the disassembly.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ops.real_launches import Launch, recorded, variants

ARCHITECTURES = 80, 90, 100
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
}
ALIGNMENT = [["tt.divisibility", 16]]


@triton.jit
def _spilling_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    """Keeps 512 values per thread alive across a reduction, where 255 registers are."""
    offs = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs)
    tl.store(out_ptr + offs, x / tl.sum(x, axis=0))


def planted() -> Launch:
    x = torch.empty(16384, dtype=torch.float32, device="meta")
    options = {"BLOCK": 16384, "num_warps": 1}
    return Launch("planted spill", "none", torch.float32, _spilling_kernel, (x, x), options)


def compiled(launch: Launch, architecture: int) -> Any:
    """The kernel, specialised as Triton would at this launch: ones are constants, 16s aligned."""
    names = launch.kernel.arg_names
    values = dict(zip(names, launch.arguments, strict=False))
    values |= {name: value for name, value in launch.options.items() if name in names}
    constant = {p.name for p in launch.kernel.params if p.is_constexpr}
    signature, constants, attributes = {}, {}, {}
    for index, name in enumerate(names):
        value = values[name]
        if name in constant or value is None or (type(value) is int and value == 1):
            signature[name], constants[(index,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
            if not launch.kernel.params[index].do_not_specialize_on_alignment:
                attributes[(index,)] = ALIGNMENT
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(index,)] = ALIGNMENT
    source = ASTSource(launch.kernel, signature, constants, attributes)
    options = {k: v for k, v in launch.options.items() if k not in names}
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def measured(kernel: Any) -> dict[str, int]:
    """Registers per thread, bytes of stack and local memory, and accesses by their width."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "-res-usage", file.name)
        code = _tool("cuobjdump", "-sass", file.name)
    numbers = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    loads = re.findall(r"\b(?:LDG|LDGSTS)\.E\S*", code)
    stores = re.findall(r"\bSTG\.E\S*", code)
    return {
        "registers": numbers["REG"],
        "stack": numbers["STACK"],
        "local": numbers["LOCAL"] + len(re.findall(r"\b(?:LDL|STL)\b", code)),
        "shared": kernel.metadata.shared,
        "wide_loads": sum("128" in load for load in loads),
        "loads": len(loads),
        "wide_stores": sum("128" in store for store in stores),
        "stores": len(stores),
    }


def _tool(name: str, *arguments: str) -> str:
    command = [str(TOOLS / name), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def report(launches: Iterable[Launch]) -> list[dict[str, Any]]:
    return [
        {
            "op": launch.op,
            "shapes": launch.shapes,
            "kernel": launch.kernel.__name__,
            "file": launch.kernel.fn.__module__.rpartition(".")[2],
            "dtype": str(launch.dtype).removeprefix("torch."),
            "architecture": architecture,
            **measured(compiled(launch, architecture)),
        }
        for launch in launches
        for architecture in ARCHITECTURES
    ]


if __name__ == "__main__":
    with Path(sys.argv[1]).open("w") as file:
        for launch in (planted(), *recorded(), *variants()):
            for line in report([launch]):
                print(json.dumps(line), file=file, flush=True)
