"""Restricted MeanFlow (arXiv 2602.05449 §3.3, Algorithm 2): average velocity, short intervals.

I ~ U(0, R), t ~ U(0, 1), r = max(0, t − I); v from the frozen guided model; u_θ(x_t, r, t) learns
v − (t − r)·du/dt, where du/dt is the derivative along (dx, dr, dt) = (v, 0, 1). R = 1 is plain
MeanFlow (arXiv 2505.13447).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..models.dit import DiT
from ..models.prepared import Prepared
from .config import RunConfig, check_positive, check_share
from .data import Batch
from .draws import Draws
from .flow import (
    GUIDANCE_RANGE,
    Point,
    check_weight_power,
    noised,
    per_row,
    scale_to,
    shifted,
    velocity,
    weighted_square,
)
from .stage import Loss, Stage

Derivative = Literal["jvp", "finite-difference"]
NEEDED_BY_JVP = {
    "activation_checkpointing": False,
    "compile": False,
    "ops": "reference",
    "sequence_parallel": 1,
}


@dataclass(frozen=True)
class MeanFlowStageConfig:
    """A run that distils average velocities from `teacher`, the path of a cfg-distilled model.

    `restriction` is R, the longest t − r.

    `derivative` "jvp" is exact: forward mode over reference ops and math attention, one device,
    nothing checkpointed or compiled. "finite-difference" runs anywhere, at two more forwards; it
    cannot see what oscillates faster than `difference_step`, which bf16 cannot make much smaller.
    `weight_power` is that of `flow.weighted_square`; DisCa's squared error is 0.
    """

    run: RunConfig
    teacher: str
    restriction: float = 0.2
    derivative: Derivative = "jvp"
    difference_step: float = 5e-3  # of t in [0, 1], each side
    weight_power: float = 0.0
    shift: float = 1.0  # of the sampler in whose time t and r are drawn; 1 is the paper's

    def __post_init__(self) -> None:
        check_share("restriction", self.restriction)
        check_weight_power(self.weight_power)
        check_positive("shift", self.shift)
        if self.derivative not in ("jvp", "finite-difference"):
            raise ValueError(
                f"derivative must be jvp or finite-difference, got {self.derivative!r}"
            )
        for name, needed in NEEDED_BY_JVP.items():
            if self.derivative == "jvp" and getattr(self.run, name) != needed:
                raise ValueError(
                    f"{name} {getattr(self.run, name)} does not go with derivative jvp; choose "
                    f"finite-difference, or {name} {needed}"
                )


class MeanFlowStage(Stage):
    """Teaches `student`, which begins as the `teacher`, the average velocity from t to r."""

    exported = "student"

    def __init__(self, config: MeanFlowStageConfig, student: DiT, teacher: DiT) -> None:
        if not teacher.config.guidance_embed or teacher.config.meanflow:
            raise ValueError(f"teacher must be cfg-distilled, got a {teacher.config.variant} model")
        self.config, self.dit_config = config, student.config
        self.trained = nn.ModuleDict({"student": student})
        self.frozen = nn.ModuleDict({"teacher": teacher})

    def loss(self, batch: Batch, draws: Draws, step: int) -> Loss:
        student, teacher = self.trained["student"], self.frozen["teacher"]
        point = draw_point(batch, draws, self.config)
        shape = batch.latents.shape
        with torch.no_grad():
            v = velocity(teacher, point, teacher.prepare(batch.conditioning, shape))
        prepared = student.prepare(batch.conditioning, shape)
        if self.config.derivative == "jvp":
            u, du_dt = exact_derivative(student, point, v, prepared)
        else:
            du_dt = difference(student, point, v, prepared, self.config.difference_step)
            u = velocity(student, point, prepared)
        target = v - per_row(point.t - point.r) * du_dt.detach()
        errors = weighted_square(u, target, self.config.weight_power)
        return Loss(errors.weighted, {"loss": errors.plain})


def draw_point(batch: Batch, draws: Draws, config: MeanFlowStageConfig) -> Point:
    """Place a batch on its paths: t, r = max(0, t − I) and guidance ~ U(1, 8).

    With a shift, t, r and I are of the time of such a sampler: its steps are equally long there.
    """
    back = config.restriction * draws.interval
    t, r = (
        shifted((draws.time - each).clamp(min=0), config.shift)
        for each in (torch.zeros_like(back), back)
    )
    guidance = scale_to(draws.guidance, *GUIDANCE_RANGE).to(config.run.dtype)
    return Point(noised(batch.latents, draws.noise, t), t, r, guidance)


def exact_derivative(
    student: DiT, point: Point, v: Tensor, prepared: Prepared
) -> tuple[Tensor, Tensor]:
    """Compute u and du/dt along v, both like the latents, by forward-mode differentiation."""

    def u(x_t: Tensor, t: Tensor) -> Tensor:
        return velocity(student, point._replace(x_t=x_t, t=t), prepared)

    return torch.func.jvp(u, (point.x_t, point.t), (v, torch.ones_like(point.t)))


@torch.no_grad()
def difference(student: DiT, point: Point, v: Tensor, prepared: Prepared, step: float) -> Tensor:
    """Approximate du/dt along v by a difference over t ± step, one-sided at the ends of [0, 1]."""
    later = (point.t + step).clamp(max=1) - point.t
    earlier = (point.t - step).clamp(min=0) - point.t
    u_later, u_earlier = (
        velocity(
            student,
            point._replace(x_t=point.x_t + per_row(moved) * v, t=point.t + moved),
            prepared,
        )
        for moved in (later, earlier)
    )
    return (u_later - u_earlier) / per_row(later - earlier)
