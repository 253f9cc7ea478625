"""Training DisCa's predictor on a frozen distilled model (arXiv 2602.05449 §3.2, Algorithm 3).

The model M's last hidden state at (x_t, r, t) is the cache; at a later point (x_t', r', t') of the
same path the predictor learns M's output from it, by squared error first, then also against a
discriminator that looks at M's hidden states one step further on.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models.blocks import run_blocks
from ..models.dit import DiT
from ..models.predictor import FusionMLP, Predictor
from ..models.prepared import Prepared
from ..sampling.forward import Forward
from .config import RunConfig, check_positive, check_share
from .data import Batch
from .discriminator import Discriminator, Features, hinge_loss
from .draws import Draws
from .flow import (
    GUIDANCE_RANGE,
    Point,
    check_weight_power,
    hidden_state,
    noised,
    per_row,
    scale_to,
    shifted,
    step_inputs,
    velocity,
    velocity_of,
    weighted_square,
)
from .optimizers import make_optimizers
from .stage import Loss, Stage


@dataclass(frozen=True)
class PredictorStageConfig:
    """A run that trains a predictor for `dit`, the path of a distilled model.

    Rates and steps are the paper's, as are R and λ; `fusion_rate` is ours: in the paper all of the
    predictor learns at one rate. Without `adversarial` the whole run is squared error ("DisCa
    without GAN").
    """

    run: RunConfig
    dit: str
    depth: int = 2  # blocks of the predictor
    restriction: float = 0.2
    largest_gap: float = 0.2  # Δ ~ U(0, largest_gap) between the cached point and the predicted
    mse_steps: int = 500  # squared error alone
    shift: float = 1.0  # of the sampler in whose time t, r and Δ are drawn; 1 is the paper's
    fusion_rate: float = 0.05  # of the run's lr, for the layers that hidden states come through
    adversarial: bool = True
    discriminator_lr: float = 1e-2
    discriminator_width: int = 256
    adversarial_weight: float = 1.0  # λ
    weight_power: float = 0.0  # of `flow.weighted_square`; 0 is the paper's squared error

    def __post_init__(self) -> None:
        check_positive("discriminator_lr", self.discriminator_lr)
        check_positive("shift", self.shift)
        check_weight_power(self.weight_power)
        for name in ("restriction", "largest_gap", "fusion_rate"):
            check_share(name, getattr(self, name))
        if self.depth < 1 or self.mse_steps < 0:
            raise ValueError(
                f"depth must be at least 1 and mse_steps at least 0, "
                f"got {self.depth} and {self.mse_steps}"
            )


class PredictorStage(Stage):
    """Teaches `predictor` the output of the frozen `dit` from its last hidden state, cached."""

    exported = "predictor"

    def __init__(self, config: PredictorStageConfig, predictor: Predictor, dit: DiT) -> None:
        if not dit.config.meanflow:
            raise ValueError(f"dit must be a meanflow model, got a {dit.config.variant} one")
        self.config, self.dit_config = config, dit.config
        self.trained = nn.ModuleDict({"predictor": predictor})
        self.depths = feature_depths(len(dit.blocks))
        if config.adversarial:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.run.seed)
                self.trained["discriminator"] = Discriminator(
                    dit.config.hidden,
                    len(self.depths),
                    config.discriminator_width,
                    checkpointed=config.run.activation_checkpointing,
                )
        self.frozen = nn.ModuleDict({"dit": dit})
        self._advanced_in: int | None = None  # the step that spectral norms are up to date with

    def optimizers(self) -> list[torch.optim.Optimizer]:
        predictor = self.trained["predictor"]
        fusions = {
            name: self.config.fusion_rate
            for name, child in predictor.named_children()
            if isinstance(child, FusionMLP)
        }
        optimizers = make_optimizers(predictor, self.config.run, factors=fusions)
        if self.config.adversarial:
            optimizers += make_optimizers(
                self.trained["discriminator"], self.config.run, self.config.discriminator_lr
            )
        return optimizers

    def loss(self, batch: Batch, draws: Draws, step: int) -> Loss:
        dit = self.frozen["dit"]
        point, later = draw_pair(batch, draws, self.config)
        prepared = dit.prepare(batch.conditioning, batch.latents.shape)
        with torch.no_grad():
            cached, _ = hidden_state(dit, point, prepared)
            target = velocity(dit, later, prepared)
        prediction = predicted_velocity(dit, self.trained["predictor"], cached, later, prepared)
        errors = weighted_square(prediction, target, self.config.weight_power)
        terms = {"mse": errors.plain}
        if not self.config.adversarial or step < self.config.mse_steps:
            return Loss(errors.weighted, {"loss": errors.weighted.detach(), **terms})
        return self._adversarial(step, errors.weighted, terms, later, prediction, target, prepared)

    def _adversarial(
        self,
        step: int,
        error: Tensor,
        terms: dict[str, Tensor],
        later: Point,
        prediction: Tensor,
        target: Tensor,
        prepared: Prepared,
    ) -> Loss:
        dit, discriminator = self.frozen["dit"], self.trained["discriminator"]
        if self._advanced_in != step:
            discriminator.advance()
            self._advanced_in = step
        fake = features(dit, next_point(later, prediction), prepared, self.depths)
        with torch.no_grad():
            real = features(dit, next_point(later, target), prepared, self.depths)
        # The paper's printed Algorithm 3 and its equations (7) and (8) disagree in sign. Here real
        # is the positive side of the hinge, as Geometric GAN defines it (arXiv 1705.02894): the
        # discriminator lowers max(0, 1 - D(real)) + max(0, 1 + D(fake)), the predictor its error
        # minus λ·D(fake).
        detached = Features([hidden.detach() for hidden in fake.hidden], fake.grid)
        discriminator_loss = hinge_loss(discriminator(real), discriminator(detached))
        realism = torch.stack([each.mean() for each in discriminator.frozen_logits(fake)]).mean()
        predictor_loss = error - self.config.adversarial_weight * realism
        terms |= {
            "loss": predictor_loss.detach(),
            "discriminator": discriminator_loss.detach(),
            "realism": realism.detach(),
        }
        return Loss(predictor_loss + discriminator_loss, terms)


def draw_pair(batch: Batch, draws: Draws, config: PredictorStageConfig) -> tuple[Point, Point]:
    """Draw the cached point (x_t, t, r) and a later one, (t', r') = max(0, (t − Δ, r − Δ)).

    Both lie on one path, of the same x_0 and ε.

    With a shift all four are uniform in the time of such a sampler, whose steps are short near
    t = 1, and t − r and t − t' still at most the restriction and the largest gap.
    """
    back, gap = config.restriction * draws.interval, config.largest_gap * draws.gap
    t, r, later_t, later_r = (
        shifted((draws.time - each).clamp(min=0), config.shift)
        for each in (torch.zeros_like(gap), back, gap, back + gap)
    )
    later_t = torch.maximum(later_t, t - config.largest_gap)
    guidance = scale_to(draws.guidance, *GUIDANCE_RANGE).to(config.run.dtype)

    def point(t: Tensor, r: Tensor) -> Point:
        r = torch.maximum(r, t - config.restriction)
        return Point(noised(batch.latents, draws.noise, t), t, r, guidance)

    return point(t, r), point(later_t, later_r)


def predicted_velocity(
    dit: DiT, predictor: Predictor, cached: Tensor, point: Point, prepared: Prepared
) -> Tensor:
    """Predict the velocity at `point` from hidden states `cached [B, S, C]`, fp32 like the latents.

    The embedding is the frozen model's, without gradient.
    """
    with torch.no_grad():
        tokens, context = Forward(dit).embed(point.x_t, step_inputs(dit, point), prepared)
    return velocity_of(dit, predictor(tokens, cached, context), context, prepared)


def next_point(point: Point, u: Tensor) -> Point:
    """Step along `u` from t' to r': x'' = x' − (t' − r')·u, and a pair as far on, at least 0."""
    length = point.t - point.r
    return Point(
        point.x_t - per_row(length) * u,
        point.r,
        (point.r - length).clamp(min=0),
        point.guidance,
    )


def feature_depths(blocks: int) -> list[int]:
    """Choose the blocks whose outputs the discriminator sees: the last of each quarter."""
    return sorted({max(1, blocks * quarter // 4) - 1 for quarter in (1, 2, 3, 4)})


def features(dit: DiT, point: Point, prepared: Prepared, depths: list[int]) -> Features:
    """Run `dit` and collect its image tokens after the blocks in `depths`."""
    forward = Forward(dit)
    tokens, context = forward.embed(point.x_t, step_inputs(dit, point), prepared)
    hidden = []
    first = 0
    for last in depths:
        tokens = run_blocks(dit.blocks[first : last + 1], tokens, context)
        img = tokens[:, : context.layout.img_len]
        hidden.append(forward.sharding.gather(img, context.layout))
        first = last + 1
    return Features(hidden, prepared.grid)
