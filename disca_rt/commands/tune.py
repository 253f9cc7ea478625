"""`disca-rt tune`: measure what to launch the fused kernels with on this GPU, write the table."""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from .arguments import check_writable

if TYPE_CHECKING:
    import torch

    from ..kernels.tune import Clock, Measured
    from ..kernels.workload import Shapes

INTERPRETED = "TRITON_INTERPRET"
WARMUP, SAMPLES = 5, 30  # calls of each candidate; the median of the samples counts
ATTENTION_SAMPLES = 7  # each takes up to 0.3 s


def add_parser(subparsers: argparse._SubParsersAction, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="measure the fused kernels' launch configurations on this GPU",
        description="Every candidate of every kernel at the shapes of the real models, on one GPU "
        "and as one of eight ranks. Each winner replaces its entry of the launch table at once. "
        "Where the package's own table cannot be written, name another with --out, and name the "
        "same file in the environment variable DISCA_RT_LAUNCH_TABLE to launch by it.",
    )
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="TABLE.json",
        help="the table to write; default: DISCA_RT_LAUNCH_TABLE, or the package's own",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="try every candidate once, interpreted on the CPU at a small shape; write nothing",
    )


def interrupted(args: argparse.Namespace) -> str:
    return "what was measured until then is in the table (a dry run writes none)"


def run(args: argparse.Namespace) -> None:
    import torch

    if args.dry_run:
        os.environ[INTERPRETED] = "1"  # before the kernels are defined
        from ..kernels.workload import SMALL

        with torch.inference_mode():
            cpu = torch.device("cpu")
            list(chain(_attention(cpu, [SMALL], _once), _measured(cpu, [SMALL], _once)))
        return
    device, path = _gpu(args.device), _table(args.out)
    from ..kernels.launch import forget_table, table_name
    from ..kernels.workload import REAL, shard

    shapes = [share for each in REAL.values() for share in (each, shard(each, 8))]
    with torch.inference_mode(), torch.cuda.device(device):
        measured = chain(
            _attention(device, REAL.values(), _gpu_clock(device, ATTENTION_SAMPLES)),
            _measured(device, shapes, _gpu_clock(device, SAMPLES)),
        )
        _tune(measured, path, table_name(device))
    forget_table()


def _gpu(name: str) -> "torch.device":
    import torch

    from .devices import choose_device

    if not torch.cuda.is_available():
        raise ValueError(
            "tune measures on a GPU, and there is none; --dry-run tries the candidates on a CPU"
        )
    device = choose_device(name)
    if device.type != "cuda":
        raise ValueError(
            f"--device must be a GPU such as cuda, got {name}; --dry-run tries the candidates on "
            "a CPU"
        )
    return device


def _table(out: Path | None) -> Path:
    """Of the table to write, after a look whether it can be read and written."""
    from ..kernels.launch_table import read_table, table_path

    path = out or table_path()
    flag = "the launch table (--out names another)" if out is None else "--out"
    check_writable(flag, path, ".json")
    if path.is_file():
        read_table(path)
    return path


def _measured(
    device: "torch.device", shapes: "Iterable[Shapes]", clock: "Clock"
) -> "Iterator[Measured]":
    """Every op at all `shapes`."""
    from ..kernels.tune import measure

    yield from _told(measure, device, shapes, clock)


def _attention(
    device: "torch.device", shapes: "Iterable[Shapes]", clock: "Clock"
) -> "Iterator[Measured]":
    """Every backend that is here, at all `shapes`."""
    from ..attention.tune import measure

    yield from _told(measure, device, shapes, clock)


def _told(
    measure: "Callable[..., Iterator[Measured]]",
    device: "torch.device",
    shapes: "Iterable[Shapes]",
    clock: "Clock",
) -> "Iterator[Measured]":
    """With a line on each; a shape too large for the device is told."""
    import torch

    generator = torch.Generator(device).manual_seed(0)

    def make(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.randn(shape, dtype=dtype, device=device, generator=generator)

    for each in shapes:
        try:
            yield from map(_reported, measure([each], make, clock))
        except torch.OutOfMemoryError:
            print(f"{each.name}: out of memory, what is left of it is not measured", flush=True)


def _reported(each: "Measured") -> "Measured":
    default = each.seconds[None]
    fastest = min((c for c in each.seconds if c), key=each.seconds.__getitem__)
    gain = default / each.seconds[fastest]
    shown = fastest if isinstance(fastest, str) else f"{fastest.rows}x{fastest.num_warps}"
    print(
        f"{each.op:34} {each.shapes:28} {1e6 * default:10.1f} µs by default, "
        f"{gain:5.2f} times as fast with {shown} of {len(each.seconds) - 1}",
        flush=True,
    )
    return each


def _tune(measured: "Iterable[Measured]", path: Path, device: str) -> None:
    """Writes the winners after each measurement, so that an interruption loses none."""
    from ..kernels.launch_table import ELSEWHERE, table_path
    from ..kernels.tune import winners

    known = []
    _write(path, device, {})  # must be there before a launch, if the environment names it
    for each in measured:
        known.append(each)
        _write(path, device, winners(known))
    if not known:
        raise ValueError("nothing was measured, no shape fits in memory; tune on a larger GPU")
    print(f"wrote {path}")
    if path.resolve() != table_path().resolve():
        print(f"to launch by it: export {ELSEWHERE}={path.resolve()}")


def _gpu_clock(device: "torch.device", samples: int) -> "Clock":
    from ..instruments.gpu_clock import GPUClock

    clock = GPUClock(device)

    def timed(call: Callable[[], object]) -> float:
        for _ in range(WARMUP):
            call()
        return median(clock(call) for _ in range(samples))

    return timed


def _once(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _write(path: Path, device: str, entries: "Mapping[str, Mapping[str, object]]") -> None:
    """`entries` by op and width into `device`'s part of the table; its others stay."""
    from ..atomic import write_whole
    from ..kernels.launch_table import read_table

    table = read_table(path) if path.is_file() else {}
    part = table.setdefault(device, {})
    for op, by_width in entries.items():
        part.setdefault(op, {}).update(by_width)
    text = json.dumps(table, indent=1, sort_keys=True)
    write_whole(path, lambda partial: partial.write_text(text + "\n"))
