"""Flags of an edit: a part of a video that was made is made anew by another prompt."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .decode import read_latents

if TYPE_CHECKING:
    from ..pipeline.runtime import Runtime

POLICY = "edit"  # unless another one is named


def add_edit_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the group edit."""
    group = parser.add_argument_group("edit (a part of a video is made anew)")
    group.add_argument(
        "--edit",
        type=Path,
        metavar="LATENTS",
        help="latents of the video (.safetensors), as --latents-out writes them; the prompt says "
        "what it becomes, and policy edit computes the masked tokens alone between full steps",
    )
    group.add_argument(
        "--mask",
        type=Path,
        help="what is made anew, in white: a picture, a video or a folder of frames of the video's "
        "size; the rest of the latents stays as it is",
    )
    group.add_argument(
        "--mask-grow", type=int, help="tokens by which the mask grows to each side; default 1"
    )


def check_edit(args: argparse.Namespace) -> None:
    """Raise ValueError for flags that do not go together, or a file that is none.

    Names the policy of an edit where --policy and --preset do not.
    """
    if args.edit is None:
        for flag in ("mask", "mask_grow"):
            if getattr(args, flag) is not None:
                raise ValueError(f"--{flag.replace('_', '-')} goes with --edit LATENTS.safetensors")
        return
    if args.mask is None:
        raise ValueError("--edit goes with --mask FILE: white is what is made anew")
    if args.mask_grow is not None and args.mask_grow < 0:
        raise ValueError(f"--mask-grow must be a number of tokens from 0, got {args.mask_grow}")
    if not args.mask.exists():
        raise ValueError(f"mask {args.mask} is neither a file nor a folder of frames")
    read_latents(args.edit)  # a few MB, read before a model of many GB is
    if args.policy is None and args.preset is None:
        args.policy = POLICY


def edit_fields(args: argparse.Namespace, runtime: "Runtime") -> dict[str, Any]:
    """Fields of the request of an edit, none without one; sets --size where it is left out."""
    if args.edit is None:
        return {}
    latents = read_latents(args.edit).latents
    if args.size is None and not _has_noise(args):
        frames, height, width = runtime.size_of(latents.shape)
        args.size = width, height, frames + runtime.facts.lost_frames
    grow = {} if args.mask_grow is None else {"mask_grow": args.mask_grow}
    return {"edit": latents, "mask": args.mask, **grow}


def _has_noise(args: argparse.Namespace) -> bool:
    """Tell whether a saved conditioning holds the noise, whose size is then the sample's."""
    from ..pipeline.saved_conditioning import load_conditioning

    return (
        args.conditioning is not None and load_conditioning(args.conditioning).latents is not None
    )
