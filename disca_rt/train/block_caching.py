"""Block Caching's adjustment (arXiv 2312.03209): a scale and a shift of what is reused.

Along a trajectory from noise blocks are replaced by s·C + b, C their last change, s and b of each
step, block and channel; the loss is the sum over steps of the squared error of the velocity to that
of a full step from the same latents. Only latents and changes are handed on, without a gradient, so
that the numbers of a step learn from it alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..cache.adjustment_file import write_adjustment
from ..cache.rules.block_caching import Table, table_of
from ..conditioning import Conditioning
from ..models.blocks import run_blocks
from ..models.dit import DiT
from ..models.prepared import Prepared
from ..sampling.forward import Forward
from .branch_cache import CacheStage, CacheStageConfig
from .cached_student import stepped_on
from .config import check_positive
from .data import Batch
from .draws import Draws
from .flow import Point, mean_square, step_inputs, velocity_of
from .stage import Loss

Change = Tensor | None
"""Change `[B, S, C]` that a block made to its tokens when it was computed last."""


@dataclass(frozen=True)
class BlockCachingStageConfig(CacheStageConfig):
    """`curves` are a calibration's, `delta` the sum of changes up to which a block is replaced.

    Both are those of the policy: see `cache.rules.block_caching`.
    """

    curves: tuple[float, ...] = ()
    delta: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("delta", self.delta)

    def table(self, blocks: int) -> Table:
        """The blocks that are computed in each step; ValueError where curves do not fit."""
        if not self.curves:
            raise ValueError(
                "block-caching learns for the table of a calibration, got none; give --calibration "
                "FILE (disca-rt calibrate makes one)"
            )
        return table_of(self.curves, self.delta, self.sampling_steps, blocks)


class Adjustment(nn.Module):
    """Scales and shifts `[steps, blocks, C]`, at first 1 and 0: reuse as it is."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(shape))
        self.shift = nn.Parameter(torch.zeros(shape))


class BlockCachingStage(CacheStage):
    """Trains scales and shifts for the table that a calibration's curves and `delta` make.

    Choices: the loss is of the guided velocity, and both passes have the same numbers, as they have
    the same table; latents move on by the student's velocity, so that it learns from what it meets.
    """

    method: ClassVar[str] = "block-caching"

    def __init__(
        self, config: BlockCachingStageConfig, dit: DiT, unconditional: Conditioning | None
    ) -> None:
        blocks = dit.config.double + dit.config.single
        shape = config.sampling_steps, blocks, dit.config.hidden
        self.table = config.table(blocks)
        super().__init__(config, Adjustment(shape), dit, unconditional)

    def loss(self, batch: Batch, draws: Draws, step: int) -> Loss:
        learned = self.trained["cache"]
        numbers = torch.stack([learned.scale, learned.shift])
        slopes, errors = torch.zeros_like(numbers), []
        prepared = self.student.prepare(batch.conditioning, batch.latents.shape)
        state = _State(draws.noise, tuple((None,) * len(self.table[0]) for _ in prepared))
        for index, computed in enumerate(self.table):
            point = self._point(state, index)
            of_step = numbers[:, index].detach().requires_grad_()
            velocity, changes = self._step(point, prepared, computed, of_step, state.changes)
            if not all(computed):
                with torch.no_grad():
                    target = self.student.velocity(point, prepared)
                error = mean_square(velocity, target)
                (slopes[:, index],) = torch.autograd.grad(error, of_step)
                errors.append(error.detach())
            state = _State(stepped_on(point, velocity.detach(), point.r), changes)
        error = torch.stack(errors).sum() if errors else torch.zeros(())
        # The gradient is there already, step by step: no more than one step's graph was held.
        total = error + (slopes * (numbers - numbers.detach())).sum()
        return Loss(total, {"loss": error, "computed": self._share(error)})

    def write(self, path: Path, weights: Mapping[str, Tensor]) -> None:
        computed = torch.tensor(self.table, dtype=torch.float32)
        learned = {name: weights[name] for name in ("scale", "shift")}
        write_adjustment(path, {"computed": computed, **learned}, self.dit_config)

    def _share(self, like: Tensor) -> Tensor:
        return like.new_tensor([float(each) for row in self.table for each in row]).mean()

    def _point(self, state: "_State", index: int) -> Point:
        batch, device = len(state.latents), state.latents.device
        return self.point(state.latents, torch.full((batch,), index, device=device))

    def _step(
        self,
        point: Point,
        prepared: list[Prepared],
        computed: tuple[bool, ...],
        numbers: Tensor,
        changes: tuple[tuple[Change, ...], ...],
    ) -> tuple[Tensor, tuple[tuple[Change, ...], ...]]:
        """Take a step; give its velocity, and the changes of each pass's blocks."""
        with torch.set_grad_enabled(not all(computed)):
            passes = [
                self._pass(point, each, computed, numbers, before)
                for each, before in zip(prepared, changes, strict=True)
            ]
        velocities, after = zip(*passes, strict=True)
        return self.student.guided(list(velocities)), after

    def _pass(
        self,
        point: Point,
        prepared: Prepared,
        computed: tuple[bool, ...],
        numbers: Tensor,
        changes: tuple[Change, ...],
    ) -> tuple[Tensor, tuple[Change, ...]]:
        """Take one pass; `numbers [2, blocks, C]` are this step's scales and shifts."""
        dit, after = self.student.dit, []
        tokens, context = Forward(dit).embed(point.x_t, step_inputs(dit, point), prepared)
        scales, shifts = numbers.to(tokens.dtype)
        for number, (block, runs) in enumerate(zip(dit.blocks, computed, strict=True)):
            before = tokens
            if runs:
                tokens = run_blocks([block], tokens, context)
                after.append((tokens - before).detach())
            else:
                tokens = before + scales[number] * changes[number] + shifts[number]
                after.append(changes[number])
        return velocity_of(dit, tokens, context, prepared), tuple(after)


class _State(NamedTuple):
    """Latents between two steps, and the changes of each pass's blocks."""

    latents: Tensor
    changes: tuple[tuple[Change, ...], ...]
