"""Kernels compiled for GPUs that are not here, and their machine code (SASS) as text.

Triton's own ptxas, nvdisasm and cuobjdump do it; they come with its wheels. Not in the interpreter.
"""

import re
import struct
import subprocess
import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .launches import Launch

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.bool: "*i1",
}
ALIGNMENT = [["tt.divisibility", 16]]
JUMP = re.compile(r"(\bBRA\b.*?)\b(0x[0-9a-f]+)")


def missing_tools() -> list[str]:
    """Names of the tools that this installation of Triton lacks."""
    return [name for name in ("ptxas", "nvdisasm", "cuobjdump") if not (TOOLS / name).is_file()]


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
        if value % 16 == 0 and not launch.kernel.params[place[0]].do_not_specialize:
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


def disassembled(cubins: Sequence[bytes], architecture: int) -> list[str]:
    """The code of each by one call of nvdisasm, whose start takes half a second.

    An instruction a line, so that a jump to `0x30` goes to the fourth.
    """
    codes = [_instructions(cubin) for cubin in cubins]
    ends = list(accumulate(len(code) for code in codes))
    said = _tool("nvdisasm", "--binary", f"SM{architecture}", contents=b"".join(codes))
    texts: list[list[str]] = [[] for _ in cubins]
    for address, instruction in re.findall(r"/\*([0-9a-f]{4,})\*/(.*)", said):
        which = bisect_right(ends, int(address, 16))
        start = ends[which] - len(codes[which])
        texts[which].append(JUMP.sub(lambda m: f"{m[1]}{int(m[2], 16) - start:#x}", instruction))  # noqa: B023
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
