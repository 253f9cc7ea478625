"""Choice, by the flags of `disca-rt bench`, of device, models, inputs, policy and schedule."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..attention.backends import settled
from ..attention.local import LocalAttention
from ..cache.policies import sketch_policy
from ..conditioning import Conditioning
from ..config import DiTConfig, predictor_config
from ..graphs.runner import GraphRunner
from ..measure.random_models import random_runtime
from ..measure.steps import Subject
from ..measure.suite import Chosen, Suite
from ..measure.workloads import (
    CONFIGS,
    Workload,
    codec_of,
    get_workload,
    latent_shape,
    random_conditioning,
)
from ..pipeline.runtime import Runtime
from ..tiny.runtime import DIT, PREDICTOR, with_tiny_prompts
from ..weights.checkpoint import open_checkpoint
from ..weights.hub import resolve
from ..weights.identify import identify
from ..work.memory import Need, footprint
from .calibrations import choose_calibrations, folders_beside, sketched_subject, sketched_with
from .devices import choose_device, choose_dtype, choose_ops
from .graphs import wants_graphs
from .out_of_memory import explained, refuse_hopeless
from .ranks import choose_attention
from .schedules import choose_policy, choose_schedule, default_schedule

if TYPE_CHECKING:
    from ..parallel.ranks import Ranks

PROMPT = "a red circle moving left and a blue square moving up on a black background"
RANDOM, EMBEDDED = "random", "embedded"


class Placement(NamedTuple):
    """Place and precision of the models that are measured."""

    device: torch.device
    dtype: torch.dtype


class Loaded(NamedTuple):
    """Suite to run, where its weights come from, with "FP8" if so, and what the sample needs."""

    suite: Suite
    weights: str
    need: Need


def placement(args: argparse.Namespace, ranks: "Ranks | None") -> Placement:
    device = choose_device(args.device) if ranks is None else ranks.device
    return Placement(device, choose_dtype(args.dtype, device) or torch.bfloat16)


def load_suite(
    args: argparse.Namespace, ranks: "Ranks | None", say: Callable[[str], None]
) -> Loaded:
    """Makes models and inputs, after saying how much memory that takes.

    MemoryError says what would fit.
    """
    workload = get_workload(args.workload, args.model)
    config = _config(args, workload)
    device, dtype = placement(args, ranks)
    attention = settled(args.attention, config.head_dim, dtype, device)
    chosen = Chosen(choose_ops(args.ops, device), attention, 1 if ranks is None else ranks.size)
    need = _need(args, workload, config, chosen, device, dtype)
    if args.dit is None:
        _check_cfg(args, config)
    is_random = args.dit is None and (args.random or workload.model != "tiny")
    weights = _weights(args, is_random)
    say(f"{workload.name}, {weights} weights: about {footprint(need)}")
    refuse_hopeless(need, device, partial(show_size, workload))
    built = {
        "device": device,
        "dtype": dtype,
        "ops": chosen.ops,
        "attention": choose_attention(args, ranks, LocalAttention(attention)),
        "fp8": args.fp8,
    }
    with explained(lambda: need, device, partial(show_size, workload)):
        runtime = random_runtime(config, **built) if is_random else _load(args, built)
    graphs = partial(GraphRunner, device) if need.graphs else None
    return Loaded(_suite(args, workload, runtime, chosen, graphs), weights, need)


def _config(args: argparse.Namespace, workload: Workload) -> DiTConfig:
    """Sizes of the DiT that is measured: those of its file, which may be smaller than the model."""
    if args.dit is None:
        return CONFIGS[workload.model]
    found = identify(open_checkpoint(resolve(args.dit))).config
    return found if isinstance(found, DiTConfig) else CONFIGS[workload.model]


def _need(
    args: argparse.Namespace,
    workload: Workload,
    config: DiTConfig,
    chosen: Chosen,
    device: torch.device,
    dtype: torch.dtype,
) -> Need:
    sides = latent_shape(workload)[1:]
    policy = _policy(args, config, True)
    parts = sketched_with(args, policy, sketched_subject(config, sides))
    return Need(
        dit=config,
        predictor=predictor_config(config),
        size=sides,
        text=workload.tokens,
        itemsize=dtype.itemsize,
        policy=sketch_policy(policy, parts),
        ops=chosen.ops,
        ranks=chosen.ranks,
        graphs=wants_graphs(args, device),
        passes=1 + args.cfg,
        fp8=args.fp8,
    )


def _weights(args: argparse.Namespace, is_random: bool) -> str:
    file = EMBEDDED if args.dit is None else Path(args.dit).name
    return (RANDOM if is_random else file) + " FP8" * (args.fp8 is not None)


def show_size(workload: Workload, grid: tuple[int, int, int]) -> str:
    """Text of the video size, such as 704x704x129, whose latents are `grid` (T, H, W)."""
    frames, height, width = codec_of(workload).video_size(*grid)
    return f"{width}x{height}x{frames}"


def _load(args: argparse.Namespace, built: dict[str, Any]) -> Runtime:
    files = (DIT, PREDICTOR) if args.dit is None else (args.dit, args.predictor)
    calibration = choose_calibrations(args, *folders_beside(args))
    return with_tiny_prompts(Runtime.load(*files, is_whole=False, calibration=calibration, **built))


def _suite(
    args: argparse.Namespace,
    workload: Workload,
    runtime: Runtime,
    chosen: Chosen,
    graphs: Callable[[], GraphRunner] | None,
) -> Suite:
    name = _policy(args, runtime.config, runtime.predictor is not None)
    _check_cfg(args, runtime.config)
    subject = Subject(
        runtime=runtime,
        conditioning=_conditioning(runtime, workload, PROMPT),
        negative=_conditioning(runtime, workload, "") if args.cfg else None,
        latent_shape=(runtime.config.in_channels, *latent_shape(workload)[1:]),
        policy=name,
        schedule=choose_schedule(args, default_schedule(runtime.config), name),
    )
    return Suite(workload, subject, chosen, graphs)


def _check_cfg(args: argparse.Namespace, config: DiTConfig) -> None:
    if args.cfg and config.guidance_embed:
        raise ValueError("--cfg: this model embeds its guidance; leave it out")


def _conditioning(runtime: Runtime, workload: Workload, prompt: str) -> Conditioning:
    if runtime.text_encoder is not None:
        return runtime.text_encoder([prompt])
    return random_conditioning(runtime.config, workload, latent_shape(workload))


def _policy(args: argparse.Namespace, config: DiTConfig, has_predictor: bool) -> str:
    """Name of the policy: as asked, else DisCa where predictor and schedule allow it."""
    schedule = default_schedule(config)
    return choose_policy(args, has_predictor and schedule.full_steps < schedule.steps)
