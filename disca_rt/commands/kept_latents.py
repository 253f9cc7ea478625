"""The latents of a sample in a file while they are decoded, and the command that goes on."""

import argparse
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

from ..errors import OneLineWarning, first_line
from .decode import LOST_FRAMES, SMALL_TILES, how_to_go_on

if TYPE_CHECKING:
    from torch import Tensor

NOT_KEPT = "the latents could not be kept anywhere"


@contextmanager
def kept_latents(
    args: argparse.Namespace, latents: "Tensor", lost_frames: int, is_first: bool
) -> Iterator[None]:
    """Keep the latents in a file while they are decoded; `args.kept` says where, and how to go on.

    The file goes once the video is there, unless it was asked for, or the video is a preview.
    """
    from .out_of_memory import is_out_of_memory

    if args.model is None or not is_first:
        yield
        return
    kept = args.latents_out or _keep(args, latents, lost_frames)
    args.kept = how_to_go_on(kept, _decode_flags(args)) if kept else NOT_KEPT
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if kept:
            args.kept = how_to_go_on(kept, _decode_flags(args) | {"--tiles": SMALL_TILES})
        raise MemoryError(f"stage decode: {first_line(error)}") from error
    if not args.preview:
        args.kept = None
        if kept and args.latents_out is None:
            kept.unlink(missing_ok=True)


def _keep(args: argparse.Namespace, latents: "Tensor", lost_frames: int) -> Path | None:
    """Write latents beside the video, or where that fails among temporary files.

    None, with a warning, where neither can be written: the decode is tried all the same.
    """
    out = args.out or args.frames_out
    for folder in (out.parent, Path(gettempdir())):
        names = (f"{out.stem}.latents{f'-{i}' if i else ''}.safetensors" for i in count())
        kept = next(p for name in names if not (p := folder / name).exists())  # of a run before
        try:
            save_latents(kept, latents, lost_frames)
        except OSError as error:
            warnings.warn(first_line(error), OneLineWarning, stacklevel=2)
        else:
            return kept
    return None


def _decode_flags(args: argparse.Namespace) -> dict[str, object]:
    """Flags with which `disca-rt decode` makes the same video of the latents."""
    from ..pipeline.match import get_rules

    tiles = args.tiles or (None if args.match is None else get_rules(args.match).tiling)
    return {
        "--model": args.model,
        "--variant": args.variant,
        "--device": None if args.device == "cpu" else args.device,
        "--tiles": tiles,
        "--vae-dtype": args.vae_dtype,
        "--out": args.out,
        "--frames-out": args.frames_out,
        "--fps": args.fps,
    }


def save_latents(path: Path, latents: "Tensor", lost_frames: int = 0) -> None:
    """Write latents `[B, C, T, H, W]` as fp32 to a .safetensors file.

    With `lost_frames`, the frames that a decode has before the video, in its metadata.
    """
    from safetensors.torch import save_file

    from ..atomic import write_whole

    tensors = {"latents": latents.float().cpu().contiguous()}
    metadata = {LOST_FRAMES: str(lost_frames)} if lost_frames else None
    write_whole(path, partial(save_file, tensors, metadata=metadata))
