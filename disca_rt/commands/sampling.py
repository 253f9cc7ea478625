"""What to sample, from the command line: the flags of every command that runs a sample.

From them come a runtime, on one process or this rank's, and the arguments of `Runtime.sample`. What
is done with a sample is the commands' own.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .arguments import (
    ATTENTION_HELP,
    OPS_HELP,
    add_fp8_argument,
    add_schedule_arguments,
    video_size,
)
from .ranks import add_rank_arguments, check_ranks, choose_attention

if TYPE_CHECKING:
    import torch

    from ..attention.local import LocalAttention
    from ..cache.policy import Policy
    from ..graphs.runner import GraphRunner
    from ..kernels.ops import Ops
    from ..parallel.ranks import Ranks
    from ..pipeline.runtime import Runtime, Sample
    from ..pipeline.saved_conditioning import SavedConditioning
    from ..schedule import Schedule

SEEDS = range(-(2**63), 2**63)  # what a generator takes


class SampleRequest(NamedTuple):
    """`inputs` are the other arguments of `Runtime.sample`."""

    policy: "Policy"
    schedule: "Schedule"
    inputs: dict[str, Any]


def add_sampling_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """The prompt, and the groups models, input, ranks and schedule."""
    parser.add_argument("prompt", nargs="?", help="what to show")
    models = parser.add_argument_group("models (files, folders or Hub references)")
    models.add_argument("--dit", help="checkpoint of the DiT")
    models.add_argument("--predictor", help="checkpoint of its DisCa predictor")
    models.add_argument("--dtype", help="float32 (default on a CPU), bfloat16, float16")
    models.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1")
    models.add_argument("--ops", help=OPS_HELP)
    models.add_argument("--attention", default="auto", help=ATTENTION_HELP)
    add_fp8_argument(models)
    inputs = parser.add_argument_group("input")
    inputs.add_argument("--conditioning", type=Path, help="saved conditioning (.safetensors)")
    inputs.add_argument("--size", type=video_size, help="WIDTHxHEIGHTxFRAMES of the video")
    inputs.add_argument("--negative-prompt", help="what to steer away from; nothing by default")
    inputs.add_argument("--guidance-scale", type=float, help="embedded or classifier-free scale")
    inputs.add_argument("--no-guidance", action="store_true", help="one conditional pass only")
    inputs.add_argument("--seed", type=int, default=0, help="of the initial noise")
    add_rank_arguments(parser, command)
    add_schedule_arguments(parser)


def check_sampling_arguments(args: argparse.Namespace) -> None:
    """Everything that can be refused before a model is loaded."""
    from .schedules import check_schedule_arguments

    if not SEEDS.start <= args.seed < SEEDS.stop:
        raise ValueError(f"--seed must be from {SEEDS.start} to {SEEDS.stop - 1}, got {args.seed}")
    if (args.prompt is None) == (args.conditioning is None):
        raise ValueError("give either a prompt or --conditioning FILE")
    if args.conditioning is not None and args.negative_prompt is not None:
        raise ValueError(
            "--negative-prompt goes with a prompt; a saved conditioning holds negative_* tensors"
        )
    check_schedule_arguments(args)
    check_ranks(args)
    if args.no_guidance and args.guidance_scale is not None:
        raise ValueError("give either --guidance-scale or --no-guidance")


def device_of(args: argparse.Namespace, ranks: "Ranks | None") -> "torch.device":
    """Of this process."""
    from .devices import choose_device

    return choose_device(args.device) if ranks is None else ranks.device


def load_runtime(
    args: argparse.Namespace,
    ranks: "Ranks | None",
    ops: "Ops | None" = None,
    local: "LocalAttention | None" = None,
    graphs: "GraphRunner | None" = None,
) -> "Runtime":
    """The models that the flags name; `ops` and `local` stand in for those that they name."""
    from ..attention.local import LocalAttention
    from ..pipeline.runtime import Runtime
    from ..tiny.runtime import DIT, PREDICTOR, with_tiny_prompts
    from .devices import choose_dtype

    device = device_of(args, ranks)
    runtime = Runtime.load(
        DIT if args.dit is None else args.dit,
        PREDICTOR if args.dit is None and args.predictor is None else args.predictor,
        device=device,
        dtype=choose_dtype(args.dtype, device),
        ops=args.ops if ops is None else ops,
        attention=choose_attention(args, ranks, local or LocalAttention(args.attention)),
        graphs=graphs,
        fp8_weights=args.fp8_weights,
    )
    runtime = with_tiny_prompts(runtime)
    if args.no_guidance and runtime.config.guidance_embed:
        raise ValueError("--no-guidance: this model embeds its guidance; give --guidance-scale 1")
    return runtime


def sample_request(args: argparse.Namespace, runtime: "Runtime") -> SampleRequest:
    """What the flags ask of `runtime`."""
    from ..cache.policies import resolve
    from .schedules import choose_policy, choose_schedule

    name = choose_policy(args, runtime.predictor is not None)
    schedule, policy = resolve(choose_schedule(args, runtime.config, name), name, runtime.parts)
    inputs = _saved_inputs(args, runtime) if args.prompt is None else _prompt_inputs(args, runtime)
    return SampleRequest(policy, schedule, {**inputs, "seed": args.seed})


def check_finite(sample: "Sample", runtime: "Runtime") -> None:
    """ValueError where the latents are not."""
    import torch

    if not torch.isfinite(sample.latents).all():
        way_out = "" if runtime.dit.dtype == torch.float32 else "; try --dtype float32"
        raise ValueError(f"the result is not finite in {runtime.dit.dtype}{way_out}")


def _prompt_inputs(args: argparse.Namespace, runtime: "Runtime") -> dict[str, Any]:
    """The arguments of `Runtime.sample` that a prompt determines."""
    from ..tiny.clips import FRAMES, HEIGHT, WIDTH
    from ..tiny.config import GUIDANCE_SCALE

    width, height, frames = args.size or (WIDTH, HEIGHT, FRAMES)
    scale = GUIDANCE_SCALE if args.guidance_scale is None else args.guidance_scale
    return runtime.prompt_inputs(
        [args.prompt],
        frames=frames,
        height=height,
        width=width,
        negative_prompt=args.negative_prompt or "",
        guidance_scale=None if args.no_guidance else scale,
    )


def _saved_inputs(args: argparse.Namespace, runtime: "Runtime") -> dict[str, Any]:
    """The arguments of `Runtime.sample` that a saved conditioning determines."""
    from ..pipeline.saved_conditioning import load_conditioning

    saved = load_conditioning(args.conditioning)
    if saved.latents is not None and args.size is not None:
        raise ValueError(f"--size is settled by the latents in {args.conditioning}; leave it out")
    embeds = runtime.config.guidance_embed
    scale = args.guidance_scale
    if scale is None and embeds:
        scale = saved.guidance_scale
    return {
        "conditioning": saved.positive,
        "negative": None if args.no_guidance else saved.negative,
        "guidance_scale": scale,
        "latents": saved.latents,
        "latent_shape": None if saved.latents is not None else _latent_shape(args, runtime, saved),
    }


def _latent_shape(
    args: argparse.Namespace, runtime: "Runtime", saved: "SavedConditioning"
) -> tuple[int, int, int, int]:
    from ..vae.sizes import SIZES

    if args.size is not None:
        width, height, frames = args.size
        codec = runtime.codec or SIZES[runtime.config.family]
        return runtime.config.in_channels, *codec.latent_shape(frames, height, width)[1:]
    if saved.positive.cond_latents is not None:
        return runtime.config.in_channels, *saved.positive.cond_latents.shape[2:]
    raise ValueError(
        f"conditioning {args.conditioning} has no latents; give the video's --size, "
        "such as 704x704x129"
    )
