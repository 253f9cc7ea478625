"""Command lines that look closer at the longest kernels, with NVIDIA's own profilers.

Both see the same ranges, as NVTX. Knows their flags, and runs nothing.
"""

import re
import shlex
from collections.abc import Sequence

from .classes import COLLECTIVE
from .table import Kernel

LINES = 5
NO_KERNELS = "Memcpy", "Memset"
LAUNCHES = 3  # of each kernel: a profiler replays every one dozens of times


def ncu_lines(kernels: Sequence[Kernel], command: Sequence[str], folder: str) -> list[str]:
    """Lines that run ncu on the longest of `kernels`, with results in `folder`.

    `command` runs the sample in ranges. Collectives are left out: one that is replayed waits for
    ranks that do not replay theirs.
    """
    lines = []
    able = [
        kernel
        for kernel in kernels
        if kernel.class_name != COLLECTIVE and not kernel.name.startswith(NO_KERNELS)
    ]
    for number, kernel in enumerate(able[:LINES], 1):
        base, around = function_name(kernel.name), "stage" if kernel.is_stage else "middle"
        arguments = [
            "ncu", "--set", "full", "--nvtx", "--nvtx-include", f"{around} {kernel.kind}/",
            "-k", f"regex:^{re.escape(base)}$", "-c", str(LAUNCHES),
            "-o", f"{folder}/{number}-{kernel.kind}-{base}",
        ]  # fmt: skip
        lines.append(shlex.join([*arguments, *command]))
    return lines


def nsys_line(command: Sequence[str], folder: str) -> str:
    """Line that runs nsys on the whole sample."""
    arguments = ["nsys", "profile", "--trace", "cuda,nvtx,cublas,cudnn", "-o", f"{folder}/nsys"]
    return shlex.join([*arguments, *command])


def function_name(kernel: str) -> str:
    """Name by which ncu calls a kernel: "fill" for "void at::native::fill<float>(int)"."""
    plain = kernel.replace("(anonymous namespace)::", "")
    head = re.split(r"[<(]", plain, maxsplit=1)[0]
    return head.split()[-1].split("::")[-1] if head.split() else kernel
