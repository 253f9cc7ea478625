"""Learning which branches a model need not compute: what L2C, HarmoniCa and LazyDiT share.

The model stays as it is; gates or heads by step and slot are trained, and written as the file that
`--policy l2c:gates=FILE` takes (`cache/gate_file.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..cache.gate_file import write_gates
from ..cache.placements.branches import pairs
from ..conditioning import Conditioning
from ..config import DiTConfig
from ..models.dit import DiT
from ..models.prepared import Prepared
from ..schedule import shifted
from .cached_student import CachedStudent, Kept, stepped_on
from .config import RunConfig, check_positive
from .data import Batch
from .draws import Draws
from .flow import Point, noised
from .stage import Stage

LIMIT = 5.0  # of a logit, in the authors' code


@dataclass(frozen=True)
class CacheStageConfig:
    """A run that learns for `dit`, the path of a model, which branches its sampler computes.

    `sampling_steps`, `shift` and `guidance` are the sampler's; what is learned is for these alone.
    """

    run: RunConfig
    dit: str
    sampling_steps: int = 50
    shift: float = 7.0
    guidance: float = 6.0  # embedded, or classifier-free where the model embeds none

    def __post_init__(self) -> None:
        if self.sampling_steps < 2:
            raise ValueError(
                f"sampling_steps must be at least 2, got {self.sampling_steps}: there must be a "
                "step to reuse from"
            )
        for name in ("shift", "guidance"):
            check_positive(name, getattr(self, name))
        if self.run.compile:
            raise ValueError("compile does not go with stage cache; leave it out")


class CacheStage(Stage):
    """Trains `learned` on the frozen `dit`. `kind` is the tensor's name in the file."""

    exported = "cache"
    written_as = torch.float32
    method: ClassVar[str]
    kind: ClassVar[str] = "gates"
    keeps_above: ClassVar[float] = 0.0

    def __init__(
        self,
        config: CacheStageConfig,
        learned: nn.Module,
        dit: DiT,
        unconditional: Conditioning | None,
    ) -> None:
        self.config, self.dit_config = config, dit.config
        self.trained = nn.ModuleDict({"cache": learned})
        self.frozen = nn.ModuleDict({"dit": dit})
        self.unconditional = unconditional
        self.student = CachedStudent(dit, config.guidance, unconditional, self.keeps_above)
        self.sigmas = torch.tensor(shifted(config.sampling_steps, config.shift).sigmas)

    def point(self, x_t: Tensor, step: Tensor) -> Point:
        """Make the point at which the sampler takes step number `step [B]`."""
        sigmas = self.sigmas.to(x_t.device)
        guidance = torch.full(step.shape, self.config.guidance, dtype=self.config.run.dtype)
        return Point(x_t, sigmas[step], sigmas[step + 1], guidance.to(x_t.device))

    def write(self, path: Path, weights: Mapping[str, Tensor]) -> None:
        write_gates(path, {self.kind: self.learned(weights)}, self.dit_config, self.method)

    def learned(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Make the file's tensor of the trained module's weights."""
        raise NotImplementedError


class Gates(nn.Module):
    """Gates `[steps, slots]` in [0, 1], sigmoids of normal logits, as in both authors' codes."""

    def __init__(self, config: CacheStageConfig, dit: DiTConfig) -> None:
        super().__init__()
        numbers = torch.Generator().manual_seed(config.run.seed)
        shape = config.sampling_steps, count_slots(dit)
        self.logits = nn.Parameter(torch.randn(shape, generator=numbers))

    def forward(self) -> Tensor:
        """Compute the gates; logits that the last step took beyond their limit are set back."""
        with torch.no_grad():
            self.logits.clamp_(-LIMIT, LIMIT)
        return self.logits.sigmoid()


def count_slots(dit: DiTConfig) -> int:
    """Count the slots of a model."""
    return sum(1 for _ in pairs(dit))


def gates_of(weights: Mapping[str, Tensor]) -> Tensor:
    """Compute the gates of weights of `Gates`."""
    return weights["logits"].float().clamp(-LIMIT, LIMIT).sigmoid()


class Pair(NamedTuple):
    """A step of which a full one, just before, is cached: `target` is its own velocity.

    `step [B]` are the steps' numbers, odd ones; each sample has its own.
    """

    step: Tensor
    point: Point
    prepared: list[Prepared]
    cached: tuple[Kept, ...]
    target: Tensor


@torch.no_grad()
def draw_pair(stage: CacheStage, batch: Batch, draws: Draws) -> Pair:
    """Draw an even step of the sampler, computed in full from noised data, and take the next."""
    student, pairs = stage.student, stage.config.sampling_steps // 2
    even = 2 * (draws.time * pairs).long().clamp(max=pairs - 1)
    start = noised(batch.latents, draws.noise, stage.sigmas.to(draws.time.device)[even])
    first = stage.point(start, even)
    prepared = student.prepare(batch.conditioning, batch.latents.shape)
    velocity, kept = student.step(first, prepared)
    point = stage.point(stepped_on(first, velocity, first.r), even + 1)
    return Pair(even + 1, point, prepared, kept, student.velocity(point, prepared))
