"""Flags of every command that runs a sample, and the runtime and request that they ask for.

What is done with a sample is the commands' own.
"""

import argparse
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .arguments import (
    ATTENTION_HELP,
    OPS_HELP,
    add_fp8_argument,
    add_schedule_arguments,
    plain_text,
    prompt,
    video_size,
)
from .calibrations import (
    add_calibration_argument,
    check_calibration,
    choose_calibrations,
    folders_beside,
    tell_calibration,
)
from .folder import (
    add_folder_arguments,
    check_folder_arguments,
    default_of,
    folder_request,
    load_folder,
)
from .ranks import FLAGS as RANK_FLAGS
from .ranks import add_rank_arguments, check_partition, check_ranks, choose_attention

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from ..attention.local import LocalAttention
    from ..graphs.runner import GraphRunner
    from ..instruments.stopwatch import Stopwatch
    from ..kernels.ops import Ops
    from ..parallel.ranks import Ranks
    from ..pipeline.request import Request
    from ..pipeline.runtime import Runtime
    from ..pipeline.saved_conditioning import SavedConditioning

NO_FIELDS: "Mapping[str, Any]" = MappingProxyType({})


def add_sampling_arguments(
    parser: argparse.ArgumentParser, command: str, has_ranks: bool = True, when: str = ""
) -> None:
    """Add the prompt, and the groups models, input, ranks (if `has_ranks`) and schedule.

    `when` says of all but --device when they may be given, where that is not always.
    """
    parser.add_argument(
        "prompt", nargs="?", type=prompt, help=f"what to show{when and '; ' + when}"
    )
    of_models = f"models (files, folders or Hub references){when and '; all but --device ' + when}"
    models = parser.add_argument_group(of_models)
    add_folder_arguments(models)
    models.add_argument("--dit", help="checkpoint of the DiT, in place of that of --model")
    models.add_argument("--predictor", help="checkpoint of its DisCa predictor")
    models.add_argument("--dtype", help="float32 (default on a CPU), bfloat16, float16")
    models.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1")
    models.add_argument("--ops", help=OPS_HELP)
    models.add_argument("--attention", default="auto", help=ATTENTION_HELP)
    add_fp8_argument(models)
    inputs = parser.add_argument_group(f"input{when and '; ' + when}")
    inputs.add_argument("--conditioning", type=Path, help="saved conditioning (.safetensors)")
    inputs.add_argument("--image", type=Path, help="picture that the video begins with")
    inputs.add_argument("--size", type=video_size, help="WIDTHxHEIGHTxFRAMES of the video")
    inputs.add_argument(
        "--negative-prompt", type=plain_text, help="what to steer away from; nothing by default"
    )
    inputs.add_argument("--guidance-scale", type=float, help="embedded or classifier-free scale")
    inputs.add_argument(
        "--classifier-free-scale",
        type=float,
        help="two passes a step, also where a model embeds its guidance",
    )
    inputs.add_argument("--no-guidance", action="store_true", help="one conditional pass only")
    inputs.add_argument("--seed", type=int, default=0, help="of the initial noise")
    inputs.add_argument(
        "--decide",
        choices=("together", "per-sample"),
        help="where a policy measures, it decides on a batch as one, or on each sample by itself, "
        "one run after the other (default)",
    )
    if has_ranks:
        add_rank_arguments(parser, command)
    else:
        parser.set_defaults(**dict.fromkeys(RANK_FLAGS))
    add_schedule_arguments(parser, f"schedule{when and '; ' + when}")
    add_calibration_argument(parser)


def check_sampling_arguments(args: argparse.Namespace, needs_input: bool = True) -> None:
    """Raise ValueError for all that can be refused before a model is loaded.

    `needs_input`: a prompt or a saved conditioning must be given.
    """
    from ..pipeline.request import SEEDS
    from ..pipeline.saved_conditioning import load_conditioning
    from .schedules import check_schedule_arguments

    if not SEEDS.start <= args.seed < SEEDS.stop:
        raise ValueError(f"--seed must be from {SEEDS.start} to {SEEDS.stop - 1}, got {args.seed}")
    if needs_input and (args.prompt is None) == (args.conditioning is None):
        raise ValueError("give either a prompt or --conditioning FILE")
    if args.conditioning is not None and args.negative_prompt is not None:
        raise ValueError(
            "--negative-prompt goes with a prompt; a saved conditioning holds negative_* tensors"
        )
    check_folder_arguments(args)
    check_schedule_arguments(args)
    check_calibration(args)
    check_ranks(args)
    if args.conditioning is not None:
        load_conditioning(args.conditioning)  # a few MB, read before a model of many GB is
    for flag in ("guidance_scale", "classifier_free_scale"):
        if args.no_guidance and getattr(args, flag) is not None:
            raise ValueError(f"give either --{flag.replace('_', '-')} or --no-guidance")


def device_of(args: argparse.Namespace, ranks: "Ranks | None") -> "torch.device":
    """Device of this process, or of this rank."""
    from .devices import choose_device

    return choose_device(args.device) if ranks is None else ranks.device


def load_runtime(
    args: argparse.Namespace,
    ranks: "Ranks | None",
    ops: "Ops | None" = None,
    local: "LocalAttention | None" = None,
    graphs: "GraphRunner | None" = None,
) -> "Runtime":
    """Load the models that the flags name; `ops` and `local` replace those that they name."""
    from ..attention.local import LocalAttention
    from ..pipeline.runtime import Runtime
    from ..tiny.runtime import DIT, PREDICTOR, with_tiny_prompts
    from .devices import choose_dtype
    from .out_of_memory import refuse_weights

    device = device_of(args, ranks)
    built = {
        "device": device,
        "dtype": choose_dtype(args.dtype, device),
        "ops": args.ops if ops is None else ops,
        "attention": choose_attention(args, ranks, local or LocalAttention(args.attention)),
        "graphs": graphs,
        "fp8": args.fp8,
    }
    if args.model is not None:
        runtime = load_folder(args, ranks, built)
        runtime.calibration = choose_calibrations(args, *folders_beside(args))
        return runtime
    if args.dit is not None:
        dtype = choose_dtype(args.dtype, device)
        refuse_weights(args.dit, args.predictor, device, dtype, args.fp8)
    runtime = Runtime.load(
        DIT if args.dit is None else args.dit,
        PREDICTOR if args.dit is None and args.predictor is None else args.predictor,
        is_whole=False,
        **built,
    )
    runtime.calibration = choose_calibrations(args, *folders_beside(args))
    runtime = with_tiny_prompts(runtime)
    if args.no_guidance and runtime.config.guidance_embed:
        raise ValueError("--no-guidance: this model embeds its guidance; give --guidance-scale 1")
    return runtime


def sample_request(
    args: argparse.Namespace,
    runtime: "Runtime",
    ranks: "Ranks | None",
    is_told: bool,
    stopwatch: "Stopwatch | None" = None,
    more: "Mapping[str, Any]" = NO_FIELDS,
) -> "Request":
    """Request of the flags, encoded and checked against `runtime` and `ranks`.

    `more` are fields of it besides those of the flags here. What encoding takes is added to
    `stopwatch`. With `is_told`, what a file holds and the model has no use for is said on stdout.
    """
    from functools import partial

    from ..pipeline.request import Request
    from .out_of_memory import explained_encoding
    from .progress import Bar
    from .schedules import choose_policy, choose_schedule

    has_predictor = runtime.parts.predictor is not None
    name = choose_policy(args, has_predictor)
    schedule = choose_schedule(args, default_of(runtime), name)
    scale = args.classifier_free_scale
    make = partial(
        Request,
        schedule=schedule,
        policy=name,
        seed=args.seed,
        noise=args.noise,
        classifier_free_scale=scale,
        decide=args.decide,
        **more,
    )
    if args.prompt is not None and args.model is not None:
        request = folder_request(args, runtime, ranks, make, is_told)
    elif args.prompt is not None:
        request = _prompt_request(args, runtime, make)
    else:
        request = _saved_request(args, runtime, make, is_told)
    runtime.resolved(request)  # a wrong policy is refused before encoders are loaded
    if is_told:
        tell_calibration(runtime, request)
    is_slow = args.prompt is not None and args.model is not None
    with Bar("encoding", None, is_told and is_slow) as bar, explained_encoding(args):
        bar.begin()
        request = runtime.conditioned(request, stopwatch)
    if ranks is not None:
        check_shares(args, runtime, ranks, request)
    return request


def check_shares(
    args: argparse.Namespace, runtime: "Runtime", ranks: "Ranks", request: "Request"
) -> None:
    """Raise ValueError, as `plan` words it, where ranks cannot share the tokens of a pass."""
    from ..pipeline.fit import latent_shape

    rows = [slice(None)]
    if runtime.decides_per_sample(request):
        rows = [slice(i, i + 1) for i in range(request.conditioning.batch)]
    shape = latent_shape(request)
    for conditioning in request.conditionings:
        for row in rows:
            check_partition(args, ranks, runtime.config, shape, conditioning.rows(row).tokens)


def _prompt_request(
    args: argparse.Namespace, runtime: "Runtime", make: "Callable[..., Request]"
) -> "Request":
    from ..tiny.clips import FRAMES, HEIGHT, WIDTH
    from ..tiny.config import GUIDANCE_SCALE

    width, height, frames = args.size or (WIDTH, HEIGHT, FRAMES)
    scale = args.guidance_scale
    is_settled = args.no_guidance or args.classifier_free_scale is not None
    if scale is None and (runtime.config.guidance_embed or not is_settled):
        scale = GUIDANCE_SCALE
    return make(
        prompts=[args.prompt],
        negative_prompt=args.negative_prompt or "",
        size=(frames, height, width),
        guidance_scale=scale,
    )


def _saved_request(
    args: argparse.Namespace, runtime: "Runtime", make: "Callable[..., Request]", is_told: bool
) -> "Request":
    from ..pipeline.saved_conditioning import load_conditioning

    saved = load_conditioning(args.conditioning)
    size, latent_shape = _saved_size(args, runtime, saved)
    embeds, scale = runtime.config.guidance_embed, args.guidance_scale
    is_left_out = embeds and args.classifier_free_scale is None
    if is_left_out and saved.negative is not None and is_told:
        print(
            f"negative_* of {args.conditioning} are left out: this model embeds its guidance; "
            "--classifier-free-scale takes them"
        )
    return make(
        conditioning=saved.positive,
        negative=None if is_left_out or args.no_guidance else saved.negative,
        guidance_scale=saved.guidance_scale if scale is None and embeds else scale,
        size=size,
        latent_shape=latent_shape,
        latents=saved.latents,
    )


def _saved_size(
    args: argparse.Namespace, runtime: "Runtime", saved: "SavedConditioning"
) -> "tuple[Sequence[int] | None, Sequence[int] | None]":
    """Fields `size` and `latent_shape` of a request: one is None, with given noise both."""
    if saved.latents is not None:
        if args.size is not None:
            where = f"the latents in {args.conditioning}"
            raise ValueError(f"--size is settled by {where}; leave it out")
        return None, None
    if args.size is not None:
        width, height, frames = args.size
        return (frames, height, width), None
    if saved.positive.cond_latents is not None:
        return None, (runtime.config.in_channels, *saved.positive.cond_latents.shape[-3:])
    raise ValueError(
        f"conditioning {args.conditioning} has no latents; give the video's --size, "
        "such as 704x704x129"
    )
