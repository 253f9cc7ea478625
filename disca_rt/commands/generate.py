"""`disca-rt generate`: a prompt or a saved conditioning to video, or to latents."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import check_writable
from .graphs import add_graphs_argument, check_graphs, wants_graphs
from .ranks import joined_ranks
from .sampling import (
    add_sampling_arguments,
    check_finite,
    check_sampling_arguments,
    device_of,
    load_runtime,
    sample_request,
)

if TYPE_CHECKING:
    from ..parallel.ranks import Ranks
    from ..pipeline.runtime import Runtime, Sample

FPS = 5  # of the mp4, unless --fps says otherwise
MAX_FPS = 240
DEFAULT_OUT = Path("out") / "video.mp4"


def add_parser(subparsers: argparse._SubParsersAction, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="make a video from a prompt, or latents from a saved conditioning",
        description="Without --dit the embedded model runs; it knows prompts such as "
        "'a small red circle moving left on a black background'.",
    )
    add_sampling_arguments(parser, name)
    add_graphs_argument(parser)
    outputs = parser.add_argument_group("output")
    outputs.add_argument(
        "--out",
        type=Path,
        help="video (.mp4), default out/video.mp4; a contact sheet goes beside it",
    )
    outputs.add_argument("--latents-out", type=Path, help="final latents (.safetensors)")
    outputs.add_argument("--fps", type=int, help="frames per second of the mp4")


def run(args: argparse.Namespace) -> None:
    if args.prompt is not None and args.out is None and args.latents_out is None:
        args.out = DEFAULT_OUT
    check_sampling_arguments(args)
    check_graphs(args)
    _check_outputs(args)
    with joined_ranks(args) as ranks:
        _generate(args, ranks)


def _generate(args: argparse.Namespace, ranks: "Ranks | None") -> None:
    """By this process, or its part of it; the first rank writes and reports."""
    from ..graphs.runner import GraphRunner
    from .devices import choose_ops

    device = device_of(args, ranks)
    args.ops = choose_ops(args.ops, device)
    graphs = GraphRunner(device) if wants_graphs(args, device) else None
    runtime = load_runtime(args, ranks, graphs=graphs)
    if args.out is not None and runtime.codec is None:
        raise ValueError(
            f"--out needs the VAE of {runtime.config.family}, which is not part of this version; "
            "give --latents-out FILE.safetensors"
        )
    sample = _sample(args, runtime, ranks is None or ranks.is_first)
    if ranks is None or ranks.is_first:
        _report(sample, _write(args, sample))


def _check_outputs(args: argparse.Namespace) -> None:
    if args.out is None and args.latents_out is None:
        raise ValueError("nothing to write: give --out VIDEO.mp4 or --latents-out FILE.safetensors")
    if args.fps is not None and (not 1 <= args.fps <= MAX_FPS or args.out is None):
        raise ValueError(f"--fps must be from 1 to {MAX_FPS} and goes with --out, got {args.fps}")
    for flag, path, suffix in (
        ("--out", args.out, ".mp4"),
        ("--latents-out", args.latents_out, ".safetensors"),
    ):
        if path is not None:
            check_writable(flag, path, suffix)
    if args.out is not None:
        check_writable("the contact sheet of --out", _sheet(args.out), ".png")


def _sample(args: argparse.Namespace, runtime: "Runtime", is_shown: bool) -> "Sample":
    from .out_of_memory import explained_sample
    from .progress import StepProgress

    request = sample_request(args, runtime)
    policy, schedule, inputs = request
    with (
        explained_sample(runtime, args.ops, request, is_shown),
        StepProgress(schedule.steps, is_shown) as progress,
    ):
        sample = runtime.sample(
            **inputs, schedule=schedule, policy=policy, on_step=progress.on_step
        )
    check_finite(sample, runtime)
    return sample


def _write(args: argparse.Namespace, sample: "Sample") -> list[Path]:
    """Write what was asked for, all of it or nothing; returns the files."""
    from safetensors.torch import save_file

    from ..atomic import write_all
    from ..pipeline.media import to_frames, write_contact_sheet, write_mp4

    writers = {}
    if args.latents_out is not None:
        latents = {"latents": sample.latents.float().cpu().contiguous()}
        writers[args.latents_out] = lambda partial: save_file(latents, partial)
    if args.out is not None:
        frames, fps = to_frames(sample.video[0]), args.fps or FPS
        writers[args.out] = lambda partial: write_mp4(partial, frames, fps)
        writers[_sheet(args.out)] = lambda partial: write_contact_sheet(partial, frames)
    write_all(writers)
    return list(writers)


def _sheet(out: Path) -> Path:
    return out.with_suffix(".png")


def _report(sample: "Sample", written: list[Path]) -> None:
    from rich.console import Console
    from rich.table import Table

    total = sum(stage.time_s for stage in sample.times.values())
    table = Table("stage", "runs", "seconds", "share", title="where the time went")
    for name, stage in sample.times.items():
        share = f"{stage.time_s / total:.1%}"
        table.add_row(name, str(stage.count), f"{stage.time_s:.3f}", share)
    console = Console()
    console.print(table)
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True, highlight=False)
