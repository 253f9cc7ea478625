"""From the flags of `disca-rt bench` to what it runs: device, models, inputs, policy, schedule."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..attention.backends import settled
from ..attention.local import LocalAttention
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
from ..work.memory import Need, footprint
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
    device: torch.device
    dtype: torch.dtype


class Loaded(NamedTuple):
    """`weights` says where they come from: random, embedded, or a file's name; FP8 is told."""

    suite: Suite
    weights: str
    need: Need


def placement(args: argparse.Namespace, ranks: "Ranks | None") -> Placement:
    device = choose_device(args.device) if ranks is None else ranks.device
    return Placement(device, choose_dtype(args.dtype, device) or torch.bfloat16)


def load_suite(
    args: argparse.Namespace, ranks: "Ranks | None", say: Callable[[str], None]
) -> Loaded:
    """Says what it will take before the models are made; MemoryError says what would fit."""
    workload = get_workload(args.workload, args.model)
    device, dtype = placement(args, ranks)
    ops = choose_ops(args.ops, device)
    config = CONFIGS[workload.model]
    attention = settled(args.attention, config.head_dim, dtype, device)
    chosen = Chosen(ops, attention, 1 if ranks is None else ranks.size)
    graphs = partial(GraphRunner, device) if wants_graphs(args, device) else None
    is_random = args.dit is None and (args.random or workload.model != "tiny")
    need = Need(
        dit=config,
        predictor=predictor_config(config),
        size=latent_shape(workload)[1:],
        text=workload.tokens,
        itemsize=dtype.itemsize,
        policy=_policy(args, config, True),
        ops=ops,
        ranks=chosen.ranks,
        graphs=graphs is not None,
        passes=1 + args.cfg,
        fp8_weights=args.fp8_weights,
    )
    built = {
        "device": device,
        "dtype": dtype,
        "ops": ops,
        "attention": choose_attention(args, ranks, LocalAttention(attention)),
        "fp8_weights": args.fp8_weights,
    }
    if args.dit is None:
        _check_cfg(args, config)
    weights = _weights(args, is_random)
    say(f"{workload.name}, {weights} weights: about {footprint(need)}")
    refuse_hopeless(need, device, lambda size: show_size(workload, size))
    with explained(lambda: need, device, lambda size: show_size(workload, size)):
        runtime = random_runtime(config, **built) if is_random else _load(args, built)
    suite = _suite(args, workload, runtime, chosen, graphs)
    return Loaded(suite, weights, need)


def _weights(args: argparse.Namespace, is_random: bool) -> str:
    file = EMBEDDED if args.dit is None else Path(args.dit).name
    return (RANDOM if is_random else file) + " FP8" * args.fp8_weights


def show_size(workload: Workload, grid: tuple[int, int, int]) -> str:
    """Latents of (T, H, W) as the workload is written."""
    frames, height, width = codec_of(workload).video_size(*grid)
    return f"{width}x{height}x{frames}"


def _load(args: argparse.Namespace, built: dict[str, Any]) -> Runtime:
    files = (DIT, PREDICTOR) if args.dit is None else (args.dit, args.predictor)
    return with_tiny_prompts(Runtime.load(*files, **built))


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
        schedule=choose_schedule(args, runtime.config, name),
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
    """A predictor asks for DisCa where the model's own schedule has predicted steps."""
    schedule = default_schedule(config)
    return choose_policy(args, has_predictor and schedule.full_steps < schedule.steps)
