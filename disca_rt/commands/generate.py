"""`disca-rt generate`: a prompt or a saved conditioning to video, or to latents."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import check_writable
from .graphs import add_graphs_argument, check_graphs, wants_graphs
from .ranks import joined_ranks
from .sampling import (
    add_sampling_arguments,
    check_sampling_arguments,
    device_of,
    load_runtime,
    sample_request,
)

if TYPE_CHECKING:
    from ..parallel.ranks import Ranks
    from ..pipeline.pipeline import Sample
    from ..pipeline.request import Request
    from ..pipeline.runtime import Runtime

FPS = 5  # of the mp4, unless --fps says otherwise
MAX_FPS = 240
DEFAULT_OUT = Path("out") / "video.mp4"
SHEET = "the contact sheet of --out"


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
        help="video (.mp4), default out/video.mp4; a contact sheet goes beside it. Several samples "
        "become video-0.mp4, video-1.mp4",
    )
    outputs.add_argument(
        "--latents-out", type=Path, help="final latents, of all samples (.safetensors)"
    )
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
    """Sample, by this process or its part of it; the first rank writes and reports."""
    from ..graphs.runner import GraphRunner
    from .devices import choose_ops

    device, is_first = device_of(args, ranks), ranks is None or ranks.is_first
    args.ops = choose_ops(args.ops, device)
    graphs = GraphRunner(device) if wants_graphs(args, device) else None
    runtime = load_runtime(args, ranks, graphs=graphs)
    if args.out is not None and runtime.codec is None:
        raise ValueError(
            f"--out needs the VAE of {runtime.config.family}, which is not part of this version; "
            "give --latents-out FILE.safetensors"
        )
    request = sample_request(args, runtime, ranks, is_first)
    sample = _sample(args, runtime, request, 1 if ranks is None else ranks.size, is_first)
    if is_first:
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
        check_writable(SHEET, _sheet(args.out), ".png")


def _check_videos(out: Path, runtime: "Runtime", request: "Request") -> None:
    """Raise ValueError where a video of `request` could not be written or be an mp4."""
    from ..pipeline.fit import latent_shape
    from ..pipeline.media import check_sides, enlargement

    for video in _videos(out, request.conditioning.batch):
        check_writable("--out", video, ".mp4")
        check_writable(SHEET, _sheet(video), ".png")
    _, height, width = runtime.codec.video_size(*latent_shape(request)[1:])
    factor = enlargement(height, width)
    check_sides(factor * height, factor * width)


def _sample(
    args: argparse.Namespace, runtime: "Runtime", request: "Request", ranks: int, is_shown: bool
) -> "Sample":
    from .out_of_memory import explained_sample
    from .progress import StepProgress

    with (
        explained_sample(runtime, args.ops, request, is_shown, ranks),
        StepProgress(request.schedule.steps, is_shown) as progress,
    ):
        if args.out is not None:
            _check_videos(args.out, runtime, request)
        return runtime.run(request, on_step=progress.on_step)


def _write(args: argparse.Namespace, sample: "Sample") -> list[Path]:
    """Write what was asked for, all of it or nothing; returns the files."""
    from functools import partial

    from safetensors.torch import save_file

    from ..atomic import write_all
    from ..pipeline.media import to_frames, write_contact_sheet
    from ..pipeline.mp4 import write_mp4

    writers = {}
    if args.latents_out is not None:
        latents = {"latents": sample.latents.float().cpu().contiguous()}
        writers[args.latents_out] = partial(save_file, latents)
    if args.out is not None:
        paths = _videos(args.out, len(sample.video))
        for path, video in zip(paths, sample.video, strict=True):
            frames = to_frames(video)
            writers[path] = partial(write_mp4, frames=frames, fps=args.fps or FPS)
            writers[_sheet(path)] = partial(write_contact_sheet, frames=frames)
    write_all(writers)
    return list(writers)


def _videos(out: Path, samples: int) -> list[Path]:
    """Paths of the videos: `out` itself for one sample, v-0.mp4, v-1.mp4 and so on for several."""
    if samples == 1:
        return [out]
    return [out.with_stem(f"{out.stem}-{i}") for i in range(samples)]


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
