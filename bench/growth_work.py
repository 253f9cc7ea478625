"""Work whose cost grows: a step or a sample of any size, by our model and by diffusers' class.

Both have the same weights and inputs, and no padding. Knows no clock.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from disca_rt.conditioning import Conditioning
from disca_rt.config import DiTConfig, predictor_config
from disca_rt.instruments.operator_count import OperatorCount
from disca_rt.instruments.peak_memory import PeakMemory
from disca_rt.kernels.ops import get_ops
from disca_rt.measure.diffusers_models import diffusers_model, diffusers_step
from disca_rt.measure.harness import Contender
from disca_rt.measure.workloads import Workload, random_conditioning
from disca_rt.models.dit import DiT, StepInputs
from disca_rt.pipeline.runtime import Runtime
from disca_rt.schedule import preset, shifted
from disca_rt.weights.load import load_dit
from disca_rt.work.flops import step_flops

CPU = torch.device("cpu")
CONFIG = DiTConfig(
    hidden=256, heads=4, double=2, single=4, text_dim=256, text_dim_2=64, rope=(16, 24, 24)
)
TEXT, ROWS = 64, 16  # tokens of text; height and width of the latents, 64 tokens a frame
FEW = 128  # tokens of a sample's step, of a batch's twice as many
SHIFT, TIMESTEP = 5.0, 900.0

Run = Callable[[], Tensor]


class Amount(NamedTuple):
    """Amount of work: tokens of image and text together, samples at once, steps."""

    tokens: int
    batch: int = 1
    steps: int = 1

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        frames, rest = divmod(4 * (self.tokens - TEXT), ROWS * ROWS)
        assert not rest, f"tokens must be a multiple of 64, got {self.tokens}"
        return CONFIG.in_channels, frames, ROWS, ROWS

    @property
    def conditioning(self) -> Conditioning:
        one = random_conditioning(CONFIG, Workload("", "", (0, 0, 0), TEXT), self.latent_shape)
        return one.repeated(self.batch)

    @property
    def noise(self) -> Tensor:
        """Noise `[B, C, T, H, W]`."""
        generator = torch.Generator().manual_seed(2)
        return torch.randn(self.batch, *self.latent_shape, generator=generator)

    @property
    def flops(self) -> int:
        step = step_flops(CONFIG, predictor_config(CONFIG), self.latent_shape, TEXT)
        return step.full * self.batch * self.steps


class Models(NamedTuple):
    """Model of ours and one of diffusers' class, of the same weights."""

    ours: DiT
    theirs: nn.Module


@cache
def models() -> Models:
    """Models with random weights; ours reads what diffusers has saved, under the ops of a CPU."""
    theirs = diffusers_model(CONFIG)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = load_dit(Path(folder), ops=get_ops("native", CPU), dtype=torch.float32)
    return Models(ours, theirs)


def our_step(dit: DiT, amount: Amount) -> Run:
    """Step that begins with its conditioning: velocity `[B, C, T, H, W]`."""
    conditioning, noise = amount.conditioning, amount.noise
    step = StepInputs(torch.full((amount.batch,), TIMESTEP))
    return lambda: dit(noise, step, dit.prepare(conditioning, noise.shape))


def their_step(model: nn.Module, amount: Amount) -> Run:
    forward, noise = diffusers_step(model, amount.conditioning), amount.noise
    return partial(forward, noise, StepInputs(torch.full((amount.batch,), TIMESTEP)))


def our_sample(dit: DiT, amount: Amount) -> Run:
    """Sample with every step full: latents."""
    runtime = Runtime(dit)
    given = {"latents": amount.noise, "schedule": preset(amount.steps, SHIFT), "policy": "full"}
    return lambda: runtime.sample(amount.conditioning, **given).latents


def their_sample(model: nn.Module, amount: Amount) -> Run:
    """Sample by the same Euler steps."""
    forward, schedule = diffusers_step(model, amount.conditioning), shifted(amount.steps, SHIFT)

    def run() -> Tensor:
        latents = amount.noise
        for step in schedule:
            velocity = forward(latents, StepInputs(torch.tensor([step.t])))
            latents = latents + velocity * (step.sigma_next - step.sigma)
        return latents

    return run


class Observed(NamedTuple):
    """Bytes of tensors beyond weights and inputs, at most at once, and operators dispatched."""

    peak_bytes: int
    operators: int


def observe(run: Callable[[], object]) -> Observed:
    """Runs `run` once; memory inside a kernel of PyTorch's or of ours is not seen."""
    with PeakMemory(CPU) as memory, OperatorCount() as operators:
        run()
    return Observed(memory.peak, operators.count)


@dataclass
class Watched:
    """Contenders of one axis; `seen` is what was observed in the untimed run of each."""

    seen: dict[str, Observed] = field(default_factory=dict)

    def contender(self, who: str, size: int, run: Run, flops: int) -> Contender:
        """Contender called "who: size"."""
        name = f"{who}: {size}"

        def first() -> None:
            self.seen[name] = observe(run)

        return Contender(name, run, flops, warm_up=first)


class Axis(NamedTuple):
    """Quantity to grow with: the amount of a size, and the work of ours and of diffusers'."""

    amount: Callable[[int], Amount]
    sizes: Sequence[int]
    ours: Callable[[DiT, Amount], Run] = our_step
    theirs: Callable[[nn.Module, Amount], Run] = their_step


AXES = {
    "tokens": Axis(Amount, (256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)),
    "steps": Axis(
        lambda steps: Amount(FEW, steps=steps), (2, 4, 8, 16, 32, 64), our_sample, their_sample
    ),
    "batch": Axis(lambda batch: Amount(2 * FEW, batch), (1, 2, 4, 8, 16)),
}
RANKS = "ranks"
