"""Flow-matching training of a base model (arXiv 2210.02747, 2209.03003).

v_θ(x_t, t) learns ε − x_0. A tenth of the conditionings is replaced by the unconditional one, so
that the model also learns the velocity that classifier-free guidance needs.
"""

from dataclasses import dataclass

import torch
from torch import nn

from ..conditioning import Conditioning
from ..config import DiTConfig
from ..models.dit import DiT
from .config import RunConfig
from .data import Batch, replace_rows
from .draws import Draws
from .flow import Point, mean_square, noised, shifted, velocity
from .stage import Loss, Stage


@dataclass(frozen=True)
class BaseStageConfig:
    """A run that trains a base model of the sizes `model`.

    `start` is the path of weights to go on from, of this model or one of fewer single-stream
    blocks; None: fresh ones.
    """

    run: RunConfig
    model: DiTConfig
    start: str | None = None
    drop_conditioning: float = 0.1  # share of samples that see the unconditional one
    shift: float = 2.0  # of t towards noise, where it is decided what is where


class BaseStage(Stage):
    """Teaches `model` the velocity ε − x_0; `unconditional` (batch 1) is the empty prompt's."""

    exported = "model"

    def __init__(self, config: BaseStageConfig, model: DiT, unconditional: Conditioning) -> None:
        if model.config.guidance_embed or model.config.meanflow:
            raise ValueError(f"model must be a base model, got a {model.config.variant} one")
        self.config, self.dit_config = config, model.config
        self.trained = nn.ModuleDict({"model": model})
        self.frozen = nn.ModuleDict()
        self.unconditional = unconditional

    def loss(self, batch: Batch, draws: Draws, step: int) -> Loss:
        model = self.trained["model"]
        dropped = draws.drop < self.config.drop_conditioning
        conditioning = replace_rows(batch.conditioning, self.unconditional, dropped)
        t = shifted(draws.time, self.config.shift)
        point = Point(noised(batch.latents, draws.noise, t), t, t, torch.ones_like(t))
        prediction = velocity(model, point, model.prepare(conditioning, batch.latents.shape))
        total = mean_square(prediction, draws.noise - batch.latents)
        return Loss(total, {"loss": total.detach()})
