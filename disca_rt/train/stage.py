"""Stages, between what is learned and how a run goes: modules, a loss and weights.

The trainer asks a stage for the loss of a batch and steps its optimizers; it knows nothing of
teachers, flows or discriminators, and a stage nothing of ranks, files or time.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..conditioning import Conditioning
from ..config import DiTConfig
from ..weights.save import save_safetensors
from .data import Batch
from .draws import Draws
from .optimizers import make_optimizers


class Loss(NamedTuple):
    """Loss of a batch: `total` is differentiated; `terms`, by name, are for the log.

    The terms include `"loss"`, and are the same in the same order on all ranks.
    """

    total: Tensor
    terms: Mapping[str, Tensor]


class Stage(Protocol):
    """Modules and the loss they learn by: `trained` ones, and `frozen` ones they learn from.

    `config` is the stage's own, whose `run` says how it trains. `exported` names the trained module
    whose weights are the result; `dit_config` has the sizes of the DiT that it is, or belongs to.
    `unconditional`, the empty prompt's conditioning of batch 1, is None where the stage never
    leaves prompts out. The result is gathered and written in the dtype `written_as`.
    """

    config: Any
    trained: nn.ModuleDict
    frozen: nn.ModuleDict
    exported: str
    dit_config: DiTConfig
    unconditional: Conditioning | None = None
    written_as: torch.dtype = torch.bfloat16

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Make the optimizers of the trained modules, once these are where they train.

        By default the exported module is the only one.
        """
        return make_optimizers(self.trained[self.exported], self.config.run)

    def write(self, path: Path, weights: Mapping[str, Tensor]) -> None:
        """Write the result, made of the exported module's averaged `weights`, to `path`.

        By default these are it, in the official key layout.
        """
        save_safetensors(path, weights, self.written_as, self.dit_config)

    def loss(self, batch: Batch, draws: Draws, step: int) -> Loss:
        """Compute the mean loss of a batch; one `backward` gives every trained module gradients."""
