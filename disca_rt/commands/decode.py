"""`disca-rt decode`: latents that were kept to a video, by the VAE of a model's folder."""

import argparse
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import first_line
from .arguments import check_writable
from .ranks import add_timeout_argument, check_ranks, joined_ranks

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..parallel.ranks import Ranks
    from ..pipeline.outputs import VideoFiles
    from ..vae.codec import Codec
    from ..vae.preview import Preview

TINY_FPS = 5  # of the embedded model's clips
SMALL_TILES = "128x96,16x12"
SHEET = "the contact sheet of --out"
LOST_FRAMES = "lost_frames"  # in the metadata of a file of latents


def add_parser(subparsers: argparse._SubParsersAction, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="make a video from latents that were kept",
        description="Without --model the latents are the embedded model's.",
    )
    parser.add_argument("latents", type=Path, help="latents (.safetensors), of one sample or more")
    parser.add_argument("--model", help="a model's folder or Hub reference, for its VAE")
    parser.add_argument("--variant", help="which model, where a folder has several")
    parser.add_argument("--device", default="cpu", help="cpu (the default), cuda, cuda:1")
    add_decode_arguments(parser)
    outputs = parser.add_argument_group("output")
    outputs.add_argument("--out", type=Path, help="video (.mp4); a contact sheet goes beside it")
    outputs.add_argument("--frames-out", type=Path, help="new folder for the frames, as PNGs")
    outputs.add_argument("--fps", type=int, help="frames per second of the mp4; default 24")
    add_timeout_argument(parser.add_argument_group("ranks (torchrun)"), "60")


def add_decode_arguments(parser: argparse._ActionsContainer) -> None:
    """Add --tiles, --vae-dtype and --preview."""
    parser.add_argument(
        "--tiles",
        default="official",
        help="official (the default), diffusers, none, or tile and stride in pixels and in frames "
        "such as 256x192,64x48; the official ones are smaller where memory is short",
    )
    parser.add_argument(
        "--vae-dtype", help="float16 (the default on a GPU), bfloat16 or float32 (on a CPU)"
    )
    parser.add_argument(
        "--preview", action="store_true", help="a rough, quick picture by a linear map, fitted anew"
    )


def run(args: argparse.Namespace) -> None:
    check_ranks(args, ("timeout",))
    if args.out is None and args.frames_out is None:
        raise ValueError("nothing to write: give --out VIDEO.mp4 or --frames-out FOLDER")
    check_video_outputs(args)
    kept = read_latents(args.latents)
    with joined_ranks(args) as ranks:
        _decode(args, ranks, kept)


def interrupted(args: argparse.Namespace) -> str:
    """Say what an interrupted command leaves."""
    return f"nothing was written, and {args.latents} is as it was: give the same command again"


def how_to_go_on(latents: Path, flags: Mapping[str, object]) -> str:
    """Word where latents are kept, and the command that makes the video of them.

    `flags` are those of `disca-rt decode` with their values; None: not given.
    """
    given = ((flag, str(value)) for flag, value in flags.items() if value is not None)
    words = ["disca-rt", "decode", str(latents), *(word for pair in given for word in pair)]
    return f"the latents are kept in {latents}; go on with: {shlex.join(words)}"


class KeptLatents(NamedTuple):
    """Latents `[B, C, T, H, W]`, fp32, and how many frames a decode has before their video."""

    latents: "Tensor"
    lost_frames: int


def read_latents(path: Path) -> KeptLatents:
    """Read latents from a file; ValueError where there are none."""
    import torch

    from ..vae.codec import check_finite
    from ..weights.files.safetensors import open_safetensors

    if not path.is_file():
        raise ValueError(f"latents {path} is not a file")
    file = open_safetensors(path)
    if "text_states" in file.specs:
        raise ValueError(f"{path} is a conditioning, whose latents are noise; give it to generate")
    if "latents" not in file.specs:
        raise ValueError(f"{path} lacks latents; it has {', '.join(sorted(file.specs)) or 'none'}")
    latents = file.read("latents")
    if latents.ndim != 5 or not latents.numel() or not latents.is_floating_point():
        kind = str(latents.dtype).removeprefix("torch.")
        raise ValueError(
            f"{path}: latents must be floats [B, C, T, H, W], got {kind} {list(latents.shape)}"
        )
    check_finite(latents)
    lost = file.metadata.get(LOST_FRAMES, "0")
    if not lost.isdecimal():
        raise ValueError(f"{path}: {LOST_FRAMES} must be a number of frames, got {lost!r}")
    return KeptLatents(latents.to(torch.float32), int(lost))


def check_video_outputs(args: argparse.Namespace) -> None:
    """Raise ValueError where --out, --frames-out or --fps are wrong, before anything runs."""
    from ..pipeline.media import check_new_folder
    from ..pipeline.mp4 import MAX_FPS, check_encoder

    if args.fps is not None and not 1 <= args.fps <= MAX_FPS:
        raise ValueError(f"--fps must be from 1 to {MAX_FPS}, got {args.fps}")
    if args.fps is not None and args.out is None:
        raise ValueError(f"--fps {args.fps} goes with --out VIDEO.mp4: PNGs have no rate")
    if args.out is not None:
        check_encoder()
        check_writable("--out", args.out, ".mp4")
        check_writable(SHEET, args.out.with_suffix(".png"), ".png")
    if args.frames_out is not None:
        check_new_folder(args.frames_out)


def video_files(args: argparse.Namespace, samples: int) -> "list[VideoFiles]":
    """Files of each video: as named for one sample; v-0.mp4, v-1.mp4 and so on for several."""
    from ..pipeline.outputs import FPS, VideoFiles

    fps = args.fps or (FPS if args.model is not None else TINY_FPS)
    if samples == 1:
        return [VideoFiles(args.out, args.frames_out, fps)]
    return [
        VideoFiles(
            args.out and args.out.with_stem(f"{args.out.stem}-{i}"),
            args.frames_out and args.frames_out / f"{i}",
            fps,
        )
        for i in range(samples)
    ]


def _decode(args: argparse.Namespace, ranks: "Ranks | None", kept: KeptLatents) -> None:
    """Decode by this process, or its part of it; the first rank writes and reports."""
    from ..vae.codec import without_first
    from .progress import Bar

    latents, lost = kept
    is_first = ranks is None or ranks.is_first
    codec = _codec(args, ranks)
    if latents.shape[1] != codec.latent_channels:
        whose = "the embedded model" if args.model is None else f"the VAE of {args.model}"
        way_out = "; give --model FOLDER" * (args.model is None)
        raise ValueError(
            f"{args.latents} has latents of {latents.shape[1]} channels, and {whose} decodes "
            f"{codec.latent_channels}{way_out}"
        )
    every = video_files(args, len(latents))
    with ExitStack() as stack:
        writers = [lambda chunk: None] * len(every)
        if is_first:
            frames, *sides = codec.video_size(*latents.shape[2:])
            writers = [stack.enter_context(each.opened((frames - lost, *sides))) for each in every]
        stack.enter_context(_explained(args))
        bar = stack.enter_context(Bar("decoding", None, is_first))
        bar.begin()
        preview = _previewed(codec, is_first) if args.preview else None
        for sample, write in zip(latents, writers, strict=True):
            chunks = preview(sample) if preview else codec.stream(sample, on_tile=bar.on_tile)
            for chunk in without_first(chunks, lost):
                write(chunk)
    for path in (path for files in every for path in files.paths if is_first):
        print(f"wrote {path}")


def _codec(args: argparse.Namespace, ranks: "Ranks | None") -> "Codec":
    """The VAE of --model, or the embedded model's codec."""
    from ..folders.find import find_model
    from ..folders.load import load_part
    from ..instruments.capacity import capacity
    from ..tiny.codec import PixelUnshuffleCodec
    from ..vae.hunyuan import HunyuanCodec
    from ..vae.share import GroupShare
    from ..vae.tiles import parse_tiling
    from .devices import choose_device

    device = choose_device(args.device) if ranks is None else ranks.device
    dtype = choose_vae_dtype(args.vae_dtype, device)
    if args.model is None:
        return PixelUnshuffleCodec()
    folder = find_model(args.model, variant=args.variant, parts=("vae",))
    parse_tiling(args.tiles, folder.family)  # a wrong one is named before the weights are read
    is_first = ranks is None or ranks.is_first
    return HunyuanCodec(
        load_part(folder, "vae", device, dtype),
        folder.family,
        args.tiles,
        None if ranks is None else GroupShare(ranks.group, ranks.device),
        free=partial(capacity, device),
        tell=partial(print, "decode:") if is_first and not args.preview else None,
    )


def choose_vae_dtype(name: str | None, device: "torch.device") -> "torch.dtype":
    """Dtype of --vae-dtype; by default float32 on a CPU, else the authors' float16."""
    from .devices import DTYPES

    if name is None:
        name = "float32" if device.type == "cpu" else "float16"
    if name not in DTYPES:
        raise ValueError(f"--vae-dtype must be one of {sorted(DTYPES)}, got {name!r}")
    return DTYPES[name]


def _previewed(codec: "Codec", is_first: bool) -> "Callable[[Tensor], list[Tensor]]":
    """Fit a preview on the first rank; gives the only chunk of a sample, none on other ranks."""
    from ..vae.preview import fit_preview

    if not is_first:
        return lambda sample: []
    preview = fit_preview(codec)
    tell_of_preview(preview)
    return lambda sample: [preview(sample)]


def tell_of_preview(preview: "Preview") -> None:
    """Say on stdout what a preview is, and how good."""
    print(f"preview: a linear map, R² {preview.r_squared:.3f} on pictures it was not fitted to")


@contextmanager
def _explained(args: argparse.Namespace) -> Iterator[None]:
    """Turn running out of memory within into one line with the way out."""
    from .out_of_memory import is_out_of_memory

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        way_out = f"{args.latents} is as it was: try --tiles {SMALL_TILES}"
        raise MemoryError(f"{first_line(error)}; {way_out}") from error
