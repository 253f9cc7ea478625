"""`disca-rt tune`: measure what to launch the fused kernels with on this GPU, write the table."""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from .arguments import check_writable

if TYPE_CHECKING:
    import torch

    from ..kernels.tune import Clock, Timing
    from ..kernels.workload import Shapes

INTERPRETED = "TRITON_INTERPRET"
WARMUP = 5  # calls of each candidate before those that count


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
        "--only", metavar="PART", help="only shapes whose name contains this, such as 704x704x129"
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
            for section in _sections([SMALL], [SMALL]):
                list(_told(section, torch.device("cpu"), _once))
        return
    models, shares = _shapes(args.only)
    device, path = _gpu(args.device), _table(args.out)
    from ..kernels.launch import table_name
    from ..kernels.launch_table import forget_table

    clock = _gpu_clock(device)
    with torch.inference_mode(), torch.cuda.device(device):
        sections = _sections(models, shares)
        measured = (
            (section, each)
            for section in sections
            for each in _told(section, device, partial(clock, samples=section.samples))
        )
        _tune(measured, path, table_name(device))
    forget_table()


def _shapes(only: str | None) -> "tuple[list[Shapes], list[Shapes]]":
    """The real models' shapes, and those of one rank, whose names contain `only`."""
    from ..kernels.workload import REAL, REAL_SHARES

    part = only or ""
    models = [shapes for name, shapes in REAL.items() if part in name]
    if not models:
        raise ValueError(f"--only must be part of one of {list(REAL)}, got {part!r}")
    return models, [share for share in REAL_SHARES if part in share.name]


class Section(NamedTuple):
    """A section of the launch table: its shapes, how each is measured, what is written of it.

    Each measurement takes `samples` calls of each candidate, of which the median counts.
    """

    name: str
    shapes: "Iterable[Shapes]"
    measure: "Callable[..., Iterator[Timing]]"
    winners: "Callable[[Iterable[Timing]], Mapping[str, object]]"
    samples: int


def _sections(models: "Iterable[Shapes]", shares: "Iterable[Shapes]") -> list[Section]:
    """Attention over whole `models`, and every op over the `shares` of one rank."""
    from ..attention import backends, tuning
    from ..kernels import launch_table, tune

    return [
        # An attention takes up to 0.3 s.
        Section(backends.SECTION, models, tuning.measure, tuning.winners, samples=7),
        Section(launch_table.OPS, shares, tune.measure, tune.winners, samples=30),
    ]


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
    """The path of the table to write, after a look whether it can be read and written."""
    from ..attention.backends import read_orders
    from ..kernels.launch_table import read_ops, table_path

    path = out or table_path()
    flag = "the launch table (--out names another)" if out is None else "--out"
    check_writable(flag, path, ".json")
    if path.is_file():
        read_ops(path)
        read_orders(path)
    return path


def _told(section: Section, device: "torch.device", clock: "Clock") -> "Iterator[Timing]":
    """Measurements of the section, each with a line; a shape too large for the device is told."""
    import torch

    generator = torch.Generator(device).manual_seed(0)

    def make(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.randn(shape, dtype=dtype, device=device, generator=generator)

    for each in section.shapes:
        try:
            yield from map(_reported, section.measure([each], make, clock))
        except torch.OutOfMemoryError:
            print(f"{each.name}: out of memory, what is left of it is not measured", flush=True)


def _reported(each: "Timing") -> "Timing":
    default = each.seconds[None]
    fastest = min((c for c in each.seconds if c), key=each.seconds.__getitem__)
    gain = default / each.seconds[fastest]
    shown = fastest if isinstance(fastest, str) else "x".join(map(str, fastest))
    print(
        f"{each.op:34} {each.shapes:28} {1e6 * default:10.1f} µs by default, "
        f"{gain:5.2f} times as fast with {shown} of {len(each.seconds) - 1}",
        flush=True,
    )
    return each


def _tune(measured: "Iterable[tuple[Section, Timing]]", path: Path, device: str) -> None:
    """Writes the winners after each measurement, so that an interruption loses none."""
    from ..kernels.launch_table import ELSEWHERE, table_path

    known: dict[str, list[Timing]] = {}
    write_winners(path, device, {})  # must be there before a launch, if the environment names it
    for section, each in measured:
        known.setdefault(section.name, []).append(each)
        write_winners(path, device, {section.name: section.winners(known[section.name])})
    if not known:
        raise ValueError("nothing was measured, no shape fits in memory; tune on a larger GPU")
    print(f"wrote {path}")
    if path.resolve() != table_path().resolve():
        print(f"to launch by it: export {ELSEWHERE}={path.resolve()}")


def _gpu_clock(device: "torch.device") -> "Callable[..., float]":
    from ..instruments.gpu_clock import GPUClock

    clock = GPUClock(device)

    def timed(call: Callable[[], object], samples: int) -> float:
        for _ in range(WARMUP):
            call()
        return median(clock(call) for _ in range(samples))

    return timed


def _once(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def write_winners(path: Path, device: str, winners: "Mapping[str, Mapping[str, object]]") -> None:
    """Put `winners` by section into `device`'s part of the table; all else in it stays."""
    from ..atomic import write_whole
    from ..kernels.launch_table import read_json

    table = read_json(path) if path.is_file() else {}
    _update(table, {device: winners})
    text = json.dumps(table, indent=1, sort_keys=True)
    write_whole(path, lambda partial: partial.write_text(text + "\n"))


def _update(table: dict[str, Any], more: "Mapping[str, Any]") -> None:
    """Set each entry of `more`, whatever its depth, and keep those beside it."""
    for name, value in more.items():
        if isinstance(value, dict):
            _update(table.setdefault(name, {}), value)
        else:
            table[name] = value
