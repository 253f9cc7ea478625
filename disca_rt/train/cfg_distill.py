"""Distilling classifier-free guidance into one pass (arXiv 2210.03142; 2602.05449 Algorithm 1).

t ~ U(0, 1), g ~ U(1, 8): the student, which takes g through `guidance_in`, learns the guided
velocity g·v_c + (1 − g)·v_uc of a frozen base model.
"""

from dataclasses import dataclass

import torch
from torch import nn

from ..conditioning import Conditioning
from ..models.dit import DiT
from .config import RunConfig
from .data import Batch, repeat_rows
from .draws import Draws
from .flow import GUIDANCE_RANGE, Point, mean_square, noised, per_row, scale_to, velocity
from .stage import Loss, Stage


@dataclass(frozen=True)
class CFGStageConfig:
    """A run that distils guidance: `teacher` is the path of a base model."""

    run: RunConfig
    teacher: str


class CFGStage(Stage):
    """Teaches `student` the guided velocity of the frozen `teacher`, at guidance scales 1 to 8.

    `student` begins as the teacher (`initialise.with_guidance`); `unconditional`, of batch 1, is
    the conditioning of the empty prompt.
    """

    exported = "student"

    def __init__(
        self, config: CFGStageConfig, student: DiT, teacher: DiT, unconditional: Conditioning
    ) -> None:
        if teacher.config.guidance_embed:
            raise ValueError(f"teacher must be a base model, got a {teacher.config.variant} one")
        self.config, self.dit_config = config, student.config
        self.trained = nn.ModuleDict({"student": student})
        self.frozen = nn.ModuleDict({"teacher": teacher})
        self.unconditional = unconditional

    def loss(self, batch: Batch, draws: Draws, step: int) -> Loss:
        student, teacher = self.trained["student"], self.frozen["teacher"]
        shape, t = batch.latents.shape, draws.time
        guidance = scale_to(draws.guidance, *GUIDANCE_RANGE).to(self.config.run.dtype)
        point = Point(noised(batch.latents, draws.noise, t), t, t, guidance)
        with torch.no_grad():
            unconditional = repeat_rows(self.unconditional, shape[0])
            v_c = velocity(teacher, point, teacher.prepare(batch.conditioning, shape))
            v_uc = velocity(teacher, point, teacher.prepare(unconditional, shape))
            target = torch.lerp(v_uc, v_c, per_row(guidance.float()))
        prediction = velocity(student, point, student.prepare(batch.conditioning, shape))
        total = mean_square(prediction, target)
        return Loss(total, {"loss": total.detach()})
