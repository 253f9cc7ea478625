"""Model, size and conditioning of `disca-rt profile --random MODEL`, which needs no checkpoint.

A step's time depends on shapes alone, if only values are like real ones.
"""

import argparse
from functools import partial
from typing import TYPE_CHECKING

import torch

from ..config import predictor_config
from ..measure.random_models import random_runtime
from ..measure.workloads import (
    CONFIGS,
    PRESETS,
    Workload,
    get_workload,
    latent_shape,
    random_conditioning,
)
from ..pipeline.request import Request
from ..work.memory import Need
from .bench_subject import show_size
from .devices import choose_dtype
from .out_of_memory import refuse_hopeless
from .schedules import choose_policy, choose_schedule, default_schedule

if TYPE_CHECKING:
    from ..attention.protocol import Attention
    from ..kernels.ops import Ops
    from ..pipeline.runtime import Runtime

OTHERS = "prompt", "model", "dit", "predictor", "conditioning", "image", "negative_prompt"


def check_random(args: argparse.Namespace) -> None:
    """Raise ValueError for a model or size that is not there, or an input that it has no use for.

    Sets `args.size`, where none was given, to that of the model's benchmark.
    """
    for name in OTHERS:
        if getattr(args, name) is not None:
            what = name if name == "prompt" else f"--{name.replace('_', '-')}"
            raise ValueError(f"--random has weights and conditioning of its own; leave {what} out")
    if args.random not in CONFIGS:
        raise ValueError(f"--random must be one of {sorted(CONFIGS)}, got {args.random!r}")
    if args.size is None:
        sizes = {row.model: row.size for row in PRESETS.values()}
        if args.random not in sizes:
            raise ValueError(f"--random {args.random} needs a --size, such as 704x704x129")
        args.size = sizes[args.random]
    latent_shape(_workload(args))


def random_model(
    args: argparse.Namespace, device: torch.device, ops: "Ops", attention: "Attention"
) -> "Runtime":
    """Runtime of the model; MemoryError, with what would fit, before weights are made."""
    workload, dtype = _workload(args), choose_dtype(args.dtype, device) or torch.bfloat16
    config = CONFIGS[workload.model]
    need = Need(
        dit=config,
        predictor=predictor_config(config),
        size=latent_shape(workload)[1:],
        text=workload.tokens,
        itemsize=dtype.itemsize,
        policy="full",
        ops=args.ops,
        fp8=args.fp8,
    )
    refuse_hopeless(need, device, partial(show_size, workload))
    return random_runtime(config, device, dtype, ops, attention, fp8=args.fp8)


def random_request(args: argparse.Namespace, runtime: "Runtime") -> Request:
    """Request of a sample by the flags' schedule and policy, from a random conditioning."""
    workload, config = _workload(args), runtime.config
    shape = latent_shape(workload)
    policy = choose_policy(args, has_predictor=True)
    return Request(
        schedule=choose_schedule(args, default_schedule(config), policy),
        policy=policy,
        seed=args.seed,
        conditioning=random_conditioning(config, workload, shape),
        latent_shape=(config.in_channels, *shape[1:]),
        guidance_scale=args.guidance_scale,
    )


def _workload(args: argparse.Namespace) -> Workload:
    return get_workload("x".join(map(str, args.size)), args.random)
