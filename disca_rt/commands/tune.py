"""`disca-rt tune`: measure what to launch the fused kernels with on this GPU, write the table."""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..kernels.tune import Measured

INTERPRETED = "TRITON_INTERPRET"


def add_parser(subparsers: argparse._SubParsersAction, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="measure the fused kernels' launch configurations on this GPU",
        description="Every candidate of every kernel at the shapes of the real models, on one GPU "
        "and as one of eight ranks. Replaces this device's part of the launch table.",
    )
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1")
    parser.add_argument("--out", type=Path, help="a table to write instead of the package's own")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="try every candidate once, interpreted on the CPU at a small shape; write nothing",
    )


def run(args: argparse.Namespace) -> None:
    import torch

    from ..kernels.workload import REAL, SMALL, shard
    from .devices import choose_device

    if args.dry_run:
        os.environ[INTERPRETED] = "1"  # before the kernels are defined
        device, shapes = torch.device("cpu"), [SMALL]
    else:
        if not torch.cuda.is_available():
            raise ValueError(
                "tune measures on a GPU, and there is none; --dry-run tries the candidates on a CPU"
            )
        device = choose_device(args.device)
        shapes = [share for each in REAL.values() for share in (each, shard(each, 8))]
    from ..kernels.launch import TABLE, device_name, forget_table
    from ..kernels.tune import measure, winners

    generator = torch.Generator(device).manual_seed(0)

    def make(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.randn(shape, dtype=dtype, device=device, generator=generator)

    clock = _once if args.dry_run else _benched
    current = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with torch.inference_mode(), current:
        measured = list(_reported(measure(shapes, make, clock)))
    if args.dry_run:
        return
    path = args.out or TABLE
    _write(path, device_name(device), winners(measured))
    forget_table()
    print(f"wrote {path}")


def _reported(measured: "Iterable[Measured]") -> "Iterable[Measured]":
    """Passes on what it is given, and prints a line of each."""
    for each in measured:
        default = each.seconds[None]
        fastest = min((c for c in each.seconds if c), key=each.seconds.__getitem__)
        gain = default / each.seconds[fastest]
        shown = fastest if isinstance(fastest, str) else f"{fastest.rows}x{fastest.num_warps}"
        print(
            f"{each.op:34} {each.shapes:28} {1e6 * default:10.1f} µs by default, "
            f"{gain:5.2f} times as fast with {shown} of {len(each.seconds) - 1}",
            flush=True,
        )
        yield each


def _benched(call: Callable[[], object]) -> float:
    from triton.testing import do_bench

    return do_bench(call, warmup=10, rep=50, return_mode="median") / 1e3


def _once(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _write(path: Path, device: str, entries: dict) -> None:
    from ..atomic import write_whole

    table = json.loads(path.read_text()) if path.is_file() else {}
    text = json.dumps(table | {device: entries}, indent=1, sort_keys=True)
    write_whole(path, lambda partial: partial.write_text(text + "\n"))
