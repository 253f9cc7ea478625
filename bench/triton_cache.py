"""Triton's cache, filled for a GPU that is not here, and moved to where it will be used.

`python -m bench.triton_cache fill FOLDER` compiles every launch of every op, all that `disca-rt
tune` tries included, at the shapes of 1.0 at 704x704x129, through Triton's own `run`: the keys are
those of real launches. They hold for the same Python files, Triton and architecture. Where the
folder was copied to, `move FOLDER` writes its new place into Triton's lists of files.
"""

import argparse
import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from disca_rt.kernels.fused import implementation
from disca_rt.kernels.launch import trying
from disca_rt.kernels.launch_table import Choice
from disca_rt.kernels.op_table import calls
from disca_rt.kernels.registration import RegisteredOp
from disca_rt.kernels.tune import candidates
from disca_rt.kernels.workload import REAL_SHARES, SMALL, Shapes

ARCHITECTURE = 90  # of H100 and H200
PART = "704x704x129"  # of the names of shapes
KEPT = ".cubin", ".json"  # what a launch reads; the stages before are ten times as large
GROUP = "__grp__"
FEW = 3  # ops of a trial


class AbsentGPU:
    """Driver, as Triton asks for one, of a GPU that compiles and never runs."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", ARCHITECTURE, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)


def fill(folder: Path, each_shapes: Iterable[Shapes], is_quick: bool) -> int:
    """Number of cubins in `folder` after all launches at these shapes; a few if `is_quick`."""
    os.environ["TRITON_CACHE_DIR"] = str(folder.resolve())
    triton.runtime.driver.set_active(AbsentGPU())
    run = JITFunction.run

    def compile_alone(self: Any, *args: Any, grid: Any, warmup: bool = False, **kwargs: Any) -> Any:
        return run(self, *args, grid=grid, warmup=True, **kwargs)

    with (
        patch.object(JITFunction, "run", compile_alone),
        patch.object(RegisteredOp, "__call__", lambda op, *args: op.launcher(*args)),
    ):
        for shapes in each_shapes:
            _launch_all(shapes, is_quick)
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix not in KEPT:
            path.unlink()
    return len(list(folder.rglob("*.cubin")))


def _launch_all(shapes: Shapes, is_quick: bool) -> None:
    made = calls(shapes, _on_meta).items()
    for op, make_call in islice(made, FEW) if is_quick else made:
        call = make_call()
        for choice in [None] if is_quick else _choices(op, call.width):
            with trying({op: choice}):
                implementation(op)(*call.args)


def _choices(op: str, width: int) -> Iterator[Choice | None]:
    yield None
    yield from candidates(op, width)


def _on_meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def move(folder: Path) -> int:
    """Writes where `folder` is into its lists of files, which hold absolute paths; their number."""
    lists = sorted(folder.rglob(f"{GROUP}*.json"))
    for path in lists:
        names = json.loads(path.read_text())["child_paths"]
        places = {name: str(path.parent.resolve() / name) for name in names}
        path.write_text(json.dumps({"child_paths": places}))
    return len(lists)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.triton_cache", description=__doc__)
    parser.add_argument("action", choices=("fill", "move"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="a few launches at a small shape")
    args = parser.parse_args()
    if args.action == "move":
        print(f"{args.folder}: {move(args.folder)} kernels")
        return
    shapes = [SMALL] if args.quick else [each for each in REAL_SHARES if PART in each.name]
    print(f"{args.folder}: {fill(args.folder, shapes, args.quick)} kernels")


if __name__ == "__main__":
    main()
