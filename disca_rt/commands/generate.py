"""`disca-rt generate`: a prompt, a picture or a saved conditioning to video, or to latents."""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import check_writable
from .decode import (
    SHEET,
    check_video_outputs,
    tell_of_preview,
    video_files,
)
from .edits import add_edit_arguments, check_edit, edit_fields
from .graphs import add_graphs_argument, check_graphs, wants_graphs
from .kept_latents import kept_latents, save_latents
from .ranks import joined_ranks
from .sampling import (
    add_sampling_arguments,
    check_sampling_arguments,
    device_of,
    load_runtime,
    sample_request,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ..instruments.stopwatch import StageTime
    from ..parallel.ranks import Ranks
    from ..pipeline.outputs import VideoFiles
    from ..pipeline.request import Request
    from ..pipeline.runtime import Runtime
    from ..pipeline.sample import Sample
    from ..sampling.loop import StepEvent

DEFAULT_OUT = Path("out") / "video.mp4"


def add_parser(subparsers: argparse._SubParsersAction, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="make a video from a prompt, or latents from a saved conditioning",
        description="Without --model and --dit the embedded model runs; it knows prompts such as "
        "'a small red circle moving left on a black background'.",
    )
    add_sampling_arguments(parser, name)
    add_edit_arguments(parser)
    add_graphs_argument(parser)
    outputs = parser.add_argument_group("output")
    outputs.add_argument(
        "--out",
        type=Path,
        help="video (.mp4), default out/video.mp4; a contact sheet goes beside it. Several samples "
        "become video-0.mp4, video-1.mp4",
    )
    outputs.add_argument("--frames-out", type=Path, help="new folder for the frames, as PNGs")
    outputs.add_argument(
        "--latents-out", type=Path, help="final latents, of all samples (.safetensors)"
    )
    outputs.add_argument("--fps", type=int, help="frames per second of the mp4; default 24")
    outputs.add_argument(
        "--preview",
        action="store_true",
        help="a rough, quick picture in place of the decode, by a linear map; the latents are kept",
    )


def run(args: argparse.Namespace) -> None:
    outs = args.out, args.latents_out, args.frames_out
    if args.prompt is not None and all(out is None for out in outs):
        args.out = DEFAULT_OUT
    check_edit(args)
    check_sampling_arguments(args)
    check_graphs(args)
    _check_outputs(args)
    with joined_ranks(args) as ranks:
        _generate(args, ranks)


def _generate(args: argparse.Namespace, ranks: "Ranks | None") -> None:
    """Sample, by this process or its part of it; the first rank writes and reports."""
    from ..graphs.runner import GraphRunner
    from ..instruments.stopwatch import Stopwatch, added
    from .devices import choose_ops

    device, is_first = device_of(args, ranks), ranks is None or ranks.is_first
    args.ops = choose_ops(args.ops, device)
    graphs = GraphRunner(device) if wants_graphs(args, device) else None
    runtime = load_runtime(args, ranks, graphs=graphs)
    if _is_video(args):
        _check_codec(args, runtime)
    stopwatch, edit = Stopwatch(device), edit_fields(args, runtime)
    request = sample_request(args, runtime, ranks, is_first, stopwatch, edit)
    sample = _sample(args, runtime, request, 1 if ranks is None else ranks.size, is_first)
    written = [] if args.latents_out is None else [args.latents_out]
    times = added(stopwatch.times(), sample.times)
    if is_first and args.latents_out is not None:
        save_latents(args.latents_out, sample.latents, runtime.facts.lost_frames)
    if _is_video(args):
        files = video_files(args, request.conditioning.batch)
        with kept_latents(args, sample.latents, runtime.facts.lost_frames, is_first):
            write = write_previews if args.preview else write_videos
            times = added(times, write(runtime, sample.latents, files, is_first))
        written += [path for each in files for path in each.paths]
    if is_first:
        _report(times, written)
        if args.preview and args.kept:
            print(args.kept)


def _is_video(args: argparse.Namespace) -> bool:
    return args.out is not None or args.frames_out is not None


def _check_outputs(args: argparse.Namespace) -> None:
    if not _is_video(args) and args.latents_out is None:
        raise ValueError("nothing to write: give --out VIDEO.mp4 or --latents-out FILE.safetensors")
    if args.preview and not _is_video(args):
        raise ValueError("--preview goes with --out VIDEO.mp4 or --frames-out FOLDER")
    if args.latents_out is not None:
        check_writable("--latents-out", args.latents_out, ".safetensors")
    check_video_outputs(args)


def _check_codec(args: argparse.Namespace, runtime: "Runtime") -> None:
    """Raise ValueError where there is no VAE to decode with."""
    if runtime.decodes:
        return
    if runtime.facts.folder is not None:
        runtime.facts.folder.require("vae")
    flag = "--out" if args.out is not None else "--frames-out"
    raise ValueError(
        f"{flag} needs the VAE of {runtime.config.family}, and a DiT alone has none; give the "
        "folder of a whole model (--model), or --latents-out FILE.safetensors"
    )


def _check_videos(args: argparse.Namespace, runtime: "Runtime", request: "Request") -> None:
    """Raise ValueError where a video of `request` could not be written or be an mp4."""
    from ..pipeline.fit import latent_shape
    from ..pipeline.media import check_sides, enlargement

    for files in video_files(args, request.conditioning.batch):
        if files.mp4 is not None:
            check_writable("--out", files.mp4, ".mp4")
            check_writable(SHEET, files.sheet, ".png")
    _, height, width = runtime.size_of(latent_shape(request))
    factor = enlargement(height, width)
    check_sides(factor * height, factor * width)


def _sample(
    args: argparse.Namespace, runtime: "Runtime", request: "Request", ranks: int, is_shown: bool
) -> "Sample":
    from .out_of_memory import explained_sample
    from .progress import Bar

    is_told = is_shown and args.model is None  # of a whole model its stages were told
    with (
        explained_sample(runtime, args.ops, request, is_told, ranks),
        Bar("sampling", request.schedule.steps, is_shown) as progress,
    ):
        if args.out is not None:
            _check_videos(args, runtime, request)
        replaced: list[bool] = []

        def on_step(event: "StepEvent") -> None:
            progress.on_step(event)
            replaced.append(event.plan.replaces())

        sample = runtime.run(request, decode=False, on_stage=progress.on_stage, on_step=on_step)
    if is_shown and not any(replaced) and runtime.resolved(request)[1].slots:
        print(f"policy {request.policy}: nothing was cached at these settings")
    return sample


def write_videos(
    runtime: "Runtime", latents: "Tensor", files: "list[VideoFiles]", is_first: bool
) -> "dict[str, StageTime]":
    """Decode samples `[B, C, T, H, W]` into their files while the frames come; gives the times.

    Every rank decodes its tiles, and the first writes. All files appear at the end, or none.
    """
    import torch

    from ..instruments.stopwatch import Stopwatch, added
    from .progress import Bar

    closing = Stopwatch(torch.device("cpu"))
    with ExitStack() as stack:
        writers = [lambda chunk: None] * len(files)
        if is_first:
            size = runtime.size_of(latents.shape)
            writers = [stack.enter_context(each.opened(size)) for each in files]
        with Bar("decoding", None, is_first) as progress:
            progress.begin()
            times = runtime.decode_into(latents, writers, on_tile=progress.on_tile)
        started = closing.start()  # encoders of video keep frames back until they are closed
    closing.stop("writing", started)
    return added(times, closing.times())


def write_previews(
    runtime: "Runtime", latents: "Tensor", files: "list[VideoFiles]", is_first: bool
) -> "dict[str, StageTime]":
    """Write a preview of each sample in place of its decode, on the first rank; gives the times."""
    from ..instruments.stopwatch import Stopwatch
    from ..vae.codec import without_first

    stopwatch = Stopwatch(latents.device)
    if is_first:
        with stopwatch.stage("preview"), ExitStack() as stack:
            preview = runtime.preview()
            tell_of_preview(preview)
            size = runtime.size_of(latents.shape)
            for sample, each in zip(latents, files, strict=True):
                write = stack.enter_context(each.opened(size))
                for chunk in without_first([preview(sample)], runtime.facts.lost_frames):
                    write(chunk)
    return stopwatch.times()


def _report(times: "dict[str, StageTime]", written: list[Path]) -> None:
    from rich.console import Console
    from rich.table import Table

    total = sum(stage.time_s for stage in times.values())
    table = Table("stage", "runs", "seconds", "share", title="where the time went")
    for name, stage in times.items():
        share = f"{stage.time_s / total:.1%}"
        table.add_row(name, str(stage.count), f"{stage.time_s:.3f}", share)
    console = Console()
    console.print(table)
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True, highlight=False)
