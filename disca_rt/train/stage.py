"""The seam between what is learned and how a run goes: a stage gives modules, a loss and weights.

The trainer asks a stage for the loss of a batch and steps its optimizers; it knows nothing of
teachers, flows or discriminators, and a stage nothing of ranks, files or time.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..conditioning import Conditioning
from ..config import DiTConfig
from .data import Batch
from .draws import Draws


class Loss(NamedTuple):
    """`total` is differentiated; `terms` are what the log shows of it, by name.

    They include `"loss"`, and are the same in the same order on all ranks.
    """

    total: Tensor
    terms: Mapping[str, Tensor]


class Stage(Protocol):
    """`trained` holds every module with its own optimizer; `frozen` what they learn from.

    `exported` names the trained module whose weights are the result, `dit_config` the DiT it is,
    or belongs to. `unconditional`, of batch 1, is what it shows in place of a prompt, if it does.
    """

    trained: nn.ModuleDict
    frozen: nn.ModuleDict
    exported: str
    dit_config: DiTConfig
    unconditional: Conditioning | None

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Of the trained modules, as they are now; made once they are where they train."""

    def loss(self, batch: Batch, draws: Draws, step: int) -> Loss:
        """The mean loss of a batch at `step`; one `backward` gives every module its gradient."""
