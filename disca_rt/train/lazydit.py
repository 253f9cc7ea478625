"""LazyDiT (arXiv 2412.12444): linear heads say of a branch's input whether it is worth computing.

On pairs of steps as in L2C a branch is s·F + (1 − s)·F_cached, s = σ(<W, z>) of a head W of this
step and slot, z the modulated input; the loss is the squared error to a full step's velocity, plus
rho times the mean of s.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..conditioning import Conditioning
from ..config import DiTConfig
from ..models.dit import DiT
from ..sampling.probes import modulated
from .branch_cache import CacheStage, CacheStageConfig, count_slots, draw_pair
from .cached_student import Entered, Slot
from .config import check_positive
from .data import Batch
from .draws import Draws
from .flow import mean_square
from .stage import Loss


@dataclass(frozen=True)
class LazyDiTStageConfig(CacheStageConfig):
    """`rho` is the paper's weight of the lazy loss.

    The authors' code sums the scores over branches, with one weight for attention and one for MLPs;
    here it is their mean (choice), so that the weight means the same in any model.
    """

    rho: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("rho", self.rho)
        if self.run.sequence_parallel > 1:
            raise ValueError(
                f"sequence_parallel must be 1 for lazydit, got {self.run.sequence_parallel}: a "
                "score is of all of a sample's tokens"
            )


class Heads(nn.Module):
    """Heads `[steps, slots, C]`, zeros, whose score is the threshold 0.5: all is computed."""

    def __init__(self, config: CacheStageConfig, dit: DiTConfig) -> None:
        super().__init__()
        shape = config.sampling_steps, count_slots(dit), dit.hidden
        self.weight = nn.Parameter(torch.zeros(shape))


class LazyDiTStage(CacheStage):
    """Trains heads of odd steps; those of even ones stay zero, so that these are computed.

    z and its mean over image rows are the policy's (`cache.rules.lazydit`); each sample has a score
    of its own, as in the authors' code.
    """

    method, kind = "lazydit", "heads"

    def __init__(self, config: LazyDiTStageConfig, dit: DiT, unconditional: Conditioning | None):
        super().__init__(config, Heads(config, dit.config), dit, unconditional)

    def loss(self, batch: Batch, draws: Draws, step: int) -> Loss:
        pair = draw_pair(self, batch, draws)
        heads = self.trained["cache"].weight[pair.step]
        scores: list[Tensor] = []

        def weigh(slot: Slot, entered: Entered) -> Tensor:
            scores.append(score(heads[:, slot.number], slot, entered))
            return scores[-1]

        mixed = self.student.step(pair.point, pair.prepared, weigh, pair.cached)
        error = mean_square(mixed.velocity, pair.target)
        every = torch.stack(scores)
        total = error + self.config.rho * every.mean()
        terms = {"loss": total, "mse": error, "computed": (every >= 0.5).float().mean()}
        return Loss(total, {name: term.detach() for name, term in terms.items()})

    def learned(self, weights: Mapping[str, Tensor]) -> Tensor:
        return weights["weight"]


def score(heads: Tensor, slot: Slot, entered: Entered) -> Tensor:
    """Score a slot of each sample, `[B]`, by its `heads [B, C]`; the block must be whole."""
    block, tokens, context = entered
    if any(hasattr(parameter, "full_tensor") for parameter in block.parameters()):
        raise ValueError("lazydit reads the weights of whole blocks: train it on one rank")
    img = tokens[:, : context.layout.img_len]
    entering = modulated(block, img, context, is_mlp="img_mlp" in slot.names).float().mean(1)
    return (entering * heads.float()).sum(-1).sigmoid()
