"""Facts about a profile that make its figures reproducible: model, device, versions."""

from typing import NamedTuple

import torch

from .. import __version__
from ..cache.policy import Policy
from ..instruments.device_name import device_name
from ..measure.ceilings import Ceilings
from ..pipeline.runtime import Runtime
from ..schedule import Schedule
from ..units import rate_text
from .capture import Captured


class Facts(NamedTuple):
    """Facts of one profile; `model` tells family and blocks, `latent_shape` is [B, C, T, H, W]."""

    device: str
    model: str
    latent_shape: tuple[int, ...]
    dtype: str
    ops: str
    attention: str
    policy: str
    steps: int
    full_steps: int
    ranks: int
    threads: int
    torch: str
    disca_rt: str

    def lines(self, ceilings: Ceilings) -> list[str]:
        """Sentences for people, with the `ceilings` that were measured."""
        predicted = self.steps - self.full_steps
        return [
            f"{self.device}; PyTorch {self.torch}, disca_rt {self.disca_rt}, "
            f"{_count(self.threads, 'CPU thread')}, {_count(self.ranks, 'rank')}",
            f"{self.model}; latents {list(self.latent_shape)}, {self.dtype}, ops {self.ops}, "
            f"attention {self.attention}; policy {self.policy}: {self.full_steps} full and "
            f"{predicted} predicted steps",
            f"ceilings measured in this run: {rate_text(ceilings.flops_per_s, 'FLOP/s')} "
            f"({ceilings.size}³ {ceilings.dtype} product), "
            f"{rate_text(ceilings.bytes_per_s, 'B/s')} (copy, read + write)",
        ]


def facts(
    runtime: Runtime,
    captured: Captured,
    policy: Policy,
    schedule: Schedule,
    ops: str,
    attention: str,
    ranks: int,
) -> Facts:
    return Facts(
        device=device_name(runtime.facts.place.device),
        model=_model(runtime),
        latent_shape=tuple(captured.sample.latents.shape),
        dtype=str(runtime.facts.place.dtype).removeprefix("torch."),
        ops=ops,
        attention=attention,
        policy=policy.name,
        steps=schedule.steps,
        full_steps=captured.kinds.count("full"),
        ranks=ranks,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        disca_rt=__version__,
    )


def _model(runtime: Runtime) -> str:
    config = runtime.config
    fp8 = runtime.facts.fp8
    weights = "" if fp8 is None else ", FP8 weights" if fp8.weights_only else ", FP8"
    return f"{config.family}, {config.layers}, width {config.hidden}{weights}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def slowdown_lines(captured: Captured) -> list[str]:
    """Sentences on how long a step of each kind took under the profiler, and without it."""
    lines = []
    for stage, plain in captured.unprofiled.items():
        profiled = captured.sample.times.get(stage)
        if stage.endswith(" steps") and profiled is not None:
            alone, under = plain.time_s / plain.count, profiled.time_s / profiled.count
            kind = stage.removesuffix(" steps")
            lines.append(
                f"a {kind} step took {under * 1e3:,.2f} ms under the profiler, "
                f"{alone * 1e3:,.2f} ms in a short sample without it"
            )
    return lines
