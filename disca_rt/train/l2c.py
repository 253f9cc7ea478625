"""Learning-to-Cache (arXiv 2406.01733): gates on pairs of steps, the first of which is full.

On the second a branch is w·F + (1 − w)·F_cached; the loss is the squared error of the velocity to
that of a full step, plus l1·Σw. Even steps stay full.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..conditioning import Conditioning
from ..models.dit import DiT
from .branch_cache import CacheStage, CacheStageConfig, Gates, draw_pair, gates_of
from .cached_student import Entered, Slot
from .config import check_positive
from .data import Batch
from .draws import Draws
from .flow import mean_square
from .stage import Loss


@dataclass(frozen=True)
class L2CStageConfig(CacheStageConfig):
    """`l1` and `thres` are the authors', of 50 steps of DiT-XL/2 at 256x256."""

    l1: float = 1e-6
    thres: float = 0.1  # of the policy, for the log

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("l1", self.l1)


class L2CStage(CacheStage):
    """Trains gates of odd steps.

    Choices: each sample of a batch has a step of its own, where the authors draw one for all; a
    model without embedded guidance is trained on the guided velocity of both passes, where they
    leave out a tenth of the labels.
    """

    method = "l2c"

    def __init__(self, config: L2CStageConfig, dit: DiT, unconditional: Conditioning | None):
        super().__init__(config, Gates(config, dit.config), dit, unconditional)

    def loss(self, batch: Batch, draws: Draws, step: int) -> Loss:
        pair = draw_pair(self, batch, draws)
        gates = self.trained["cache"]()[pair.step]

        def weigh(slot: Slot, entered: Entered) -> Tensor:
            return gates[:, slot.number]

        mixed = self.student.step(pair.point, pair.prepared, weigh, pair.cached)
        error = mean_square(mixed.velocity, pair.target)
        total = error + self.config.l1 * gates.sum(1).mean()
        computed = (gates > self.config.thres).float().mean()
        return Loss(total, {"loss": total.detach(), "mse": error.detach(), "computed": computed})

    def learned(self, weights: Mapping[str, Tensor]) -> Tensor:
        gates = gates_of(weights)
        gates[::2] = 1
        return gates
