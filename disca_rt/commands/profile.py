"""`disca-rt profile`: a table, a trace and a page of one sample under the profiler."""

import argparse
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .arguments import check_writable
from .profile_sample import profiled_sample, run_sample
from .ranks import choose_attention, joined_ranks
from .sampling import (
    add_sampling_arguments,
    check_sampling_arguments,
    device_of,
    load_runtime,
)

if TYPE_CHECKING:
    from rich.table import Table

    from ..attention.local import LocalAttention
    from ..kernels.ops import Ops
    from ..measure.ceilings import Ceilings
    from ..parallel.ranks import Ranks
    from ..pipeline.runtime import Runtime
    from ..profiling.account import Account
    from ..profiling.capture import Captured
    from ..profiling.facts import Facts
    from ..profiling.ranges import Ranges
    from ..profiling.table import Row
    from ..profiling.timeline import TraceTimeline

DEFAULT_OUT = Path("out") / "profile"
DEFAULT_PROMPT = "a red circle moving left on a black background"
TABLE, LINES, TRACE, PAGE = "table.md", "table.jsonl", "trace.json", "profile.html"
LEFT_OUT = "step kind", "calls", "ms"  # on the terminal
FP8_FLAGS = {"compute": ["--fp8"], "weights": ["--fp8-weights"]}
OURS = "command", "out", "nvtx_only"  # arguments that are not the sample's


def add_parser(subparsers: argparse._SubParsersAction, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="say where the time of a sample goes, by stage, step kind and kernel class",
        description="Runs one sample under PyTorch's profiler: of the embedded model, of a DiT "
        "(--dit), of a whole model (--model), whose loading, encoders and VAE are profiled as "
        "well, or of one with random weights (--random). Writes a table (Markdown and JSON "
        "lines), a Chrome trace and a page with the timeline and the roofline plot.",
    )
    add_sampling_arguments(parser, name)
    parser.add_argument(
        "--random",
        metavar="MODEL",
        help="a model with random weights and conditioning, in place of files and prompt; --size "
        "is that of its benchmark by default (an unknown name lists all)",
    )
    outputs = parser.add_argument_group("output")
    outputs.add_argument(
        "--out", type=Path, metavar="FOLDER", help="what to write into; default out/profile"
    )
    outputs.add_argument(
        "--nvtx-only",
        action="store_true",
        help="run the sample in NVTX ranges for nsys or ncu, and write nothing",
    )


def run(args: argparse.Namespace) -> None:
    # Before PyTorch is imported: its profiler would say on stderr when it starts and stops.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from .devices import choose_device

    if args.nvtx_only and args.out is not None:
        raise ValueError("--nvtx-only writes nothing; leave --out out")
    if args.nvtx_only and choose_device(args.device).type != "cuda":
        raise ValueError("--nvtx-only is for NVIDIA's profilers; give --device cuda")
    if args.out is None:
        args.out = DEFAULT_OUT
    if args.random is not None:
        from .profile_random import check_random

        check_random(args)
    elif args.prompt is None and args.conditioning is None and args.dit is None:
        args.prompt = DEFAULT_PROMPT
    check_sampling_arguments(args, needs_input=args.random is None)
    if not args.nvtx_only:
        for name in (TABLE, LINES, TRACE, PAGE):
            check_writable("--out", args.out / name, Path(name).suffix)
    with joined_ranks(args) as ranks:
        _profile(args, ranks)


class Profile(NamedTuple):
    """Results of one profile: everything that is written and said."""

    captured: "Captured"
    timeline: "TraceTimeline"
    account: "Account"
    rows: "list[Row]"
    ceilings: "Ceilings"
    facts: "Facts"


def _profile(args: argparse.Namespace, ranks: "Ranks | None") -> None:
    """Runs the sample on every rank; the first one writes and reports."""
    from ..kernels.ops import get_ops
    from ..profiling.capture import is_whole
    from ..profiling.marked import MarkedStopwatch, marked_attention, marked_ops
    from ..profiling.ranges import Ranges
    from .devices import choose_ops

    device = device_of(args, ranks)
    args.ops = choose_ops(args.ops, device)
    ranges = Ranges(device)
    ops = marked_ops(get_ops(args.ops, device), ranges)
    runtime = _runtime(args, ranks, ops, marked_attention(args.attention, ranges))
    if is_whole(runtime):
        runtime.stopwatch = partial(MarkedStopwatch, ranges, device)
    if args.nvtx_only:
        run_sample(args, runtime, ranges, ranks)
        return
    profile = _measured(args, runtime, ranges, ranks)
    if ranks is None or ranks.is_first:
        commands = _commands(args, profile)
        _report(profile, commands, _write(args.out, profile, commands))


def _runtime(
    args: argparse.Namespace, ranks: "Ranks | None", ops: "Ops", local: "LocalAttention"
) -> "Runtime":
    if args.random is None:
        return load_runtime(args, ranks, ops, local)
    from .profile_random import random_model

    return random_model(args, device_of(args, ranks), ops, choose_attention(args, ranks, local))


def _measured(
    args: argparse.Namespace, runtime: "Runtime", ranges: "Ranges", ranks: "Ranks | None"
) -> Profile:
    from ..attention.backends import settled
    from ..measure.ceilings import measure_ceilings
    from ..profiling.account import account
    from ..profiling.facts import facts
    from ..profiling.table import rows
    from ..profiling.timeline import read_timeline

    request, captured = profiled_sample(args, runtime, ranges, ranks)
    dtype, device = runtime.facts.place
    ceilings = measure_ceilings(device, dtype)
    timeline = read_timeline(captured.trace["traceEvents"], device.type == "cuda")
    accounted = account(timeline, captured.kinds, captured.works)
    attention = settled(args.attention, runtime.config.head_dim, dtype, device)
    schedule, policy = runtime.resolved(request)
    size = 1 if ranks is None else ranks.size
    about = facts(runtime, captured, policy, schedule, args.ops, attention, size)
    return Profile(captured, timeline, accounted, rows(accounted), ceilings, about)


def _commands(args: argparse.Namespace, profile: Profile) -> list[str]:
    """Command lines of Nsight Systems and Nsight Compute, for the kernels that took longest."""
    from ..profiling.ncu import ncu_lines, nsys_line
    from ..profiling.table import kernels

    if not profile.timeline.is_on_gpu:
        return ["# no GPU kernels in this profile: with --device cuda, ncu command lines are here"]
    command = ["python", "-m", "disca_rt", "profile", "--nvtx-only", *sample_flags(args)]
    folder = str(args.out)
    return [*ncu_lines(kernels(profile.account), command, folder), nsys_line(command, folder)]


def sample_flags(args: argparse.Namespace) -> list[str]:
    """Command-line arguments that make the same sample again."""
    flags: list[str] = []
    for name, value in vars(args).items():
        flag = f"--{name.replace('_', '-')}"
        if name in OURS or value is None or value is False:
            continue
        if name == "prompt":
            flags.append(value)
        elif name == "fp8":
            flags += FP8_FLAGS.get(value, ["--fp8-table", value])
        elif value is True:
            flags.append(flag)
        elif isinstance(value, tuple):
            flags += [flag, ("x" if name == "size" else ",").join(map(str, value))]
        else:
            flags += [flag, str(value)]
    return flags


def _write(folder: Path, profile: Profile, commands: Sequence[str]) -> list[Path]:
    """Writes all files or none into `folder`; returns their paths."""
    from ..atomic import write_all

    texts = {
        TABLE: _markdown(profile, commands),
        LINES: _json_lines(profile),
        TRACE: json.dumps(profile.captured.trace, separators=(",", ":")),
        PAGE: _page(profile, commands),
    }
    writers = {
        folder / name: lambda partial, text=text: partial.write_text(text, encoding="utf-8")
        for name, text in texts.items()
    }
    write_all(writers)
    return list(writers)


def _about(profile: Profile) -> list[str]:
    from ..profiling.facts import slowdown_lines
    from ..profiling.table import outside_line, stage_line

    lines = [*profile.facts.lines(profile.ceilings), *slowdown_lines(profile.captured)]
    lines.append(outside_line(profile.rows))
    if any(row.is_stage for row in profile.rows):
        lines.append(stage_line(profile.rows))
    return lines


def _markdown(profile: Profile, commands: Sequence[str]) -> str:
    from ..markdown import table_lines
    from ..profiling.table import HEADER, cells

    table = [cells(row, profile.ceilings) for row in profile.rows]
    about = [f"- {line}" for line in _about(profile)]
    return (
        "\n".join([*about, "", *table_lines(HEADER, table), "", "```sh", *commands, "```"]) + "\n"
    )


def _json_lines(profile: Profile) -> str:
    from ..profiling.table import record

    about = profile.facts._asdict()
    lines = [{**about, **record(row, profile.ceilings)} for row in profile.rows]
    return "".join(json.dumps(line) + "\n" for line in lines)


def _page(profile: Profile, commands: Sequence[str]) -> str:
    from ..profiling.lanes import lanes
    from ..profiling.page import page_html
    from ..profiling.roofline import roofline_svg

    return page_html(
        "Where the time of a sample goes",
        _about(profile),
        profile.rows,
        profile.ceilings,
        roofline_svg(profile.rows, profile.ceilings),
        lanes(profile.timeline, profile.account),
        commands,
    )


def _report(profile: Profile, commands: Sequence[str], written: Sequence[Path]) -> None:
    from rich.console import Console

    console = Console()
    for kind in dict.fromkeys(row.kind for row in profile.rows):
        console.print(_terminal_table(profile, kind))
    for line in (*_about(profile), *commands, *(f"wrote {path}" for path in written)):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _terminal_table(profile: Profile, kind: str) -> "Table":
    """Table of one kind of step or of a stage, narrow enough for 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from ..profiling.table import ALL, HEADER, cells

    rows = [row for row in profile.rows if row.kind == kind]
    is_stage, count = rows[0].is_stage, rows[0].steps
    title = f"{kind}, {count} x" if is_stage else f"{count} {kind} step{'s' * (count != 1)}"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in HEADER:
        if name not in LEFT_OUT:
            shown = "ms each" if is_stage and name == "ms/step" else name
            table.add_column(shown, justify="left" if name == "class" else "right", no_wrap=True)
    for row in rows:
        texts = zip(HEADER, cells(row, profile.ceilings), strict=True)
        kept = [text for name, text in texts if name not in LEFT_OUT]
        table.add_row(*kept, style="bold" if row.class_name == ALL else "")
    return table
