"""The predictor's stage: the runtime's own predicted step, its adversarial loss by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from disca_rt.config import DiTConfig, predictor_config
from disca_rt.models.predictor import FusionMLP, Predictor
from disca_rt.pipeline.runtime import Runtime
from disca_rt.schedule import preset
from disca_rt.tiny.prompts import encode
from disca_rt.tiny.training_clips import TrainingClips
from disca_rt.train.build import build_stage
from disca_rt.train.flow import Point, hidden_state, shifted, step_inputs, velocity, velocity_of
from disca_rt.train.initialise import fresh_predictor
from disca_rt.train.predictor import (
    PredictorStage,
    PredictorStageConfig,
    draw_pair,
    feature_depths,
    features,
    next_point,
    predicted_velocity,
)
from disca_rt.train.trainer import train
from disca_rt.weights.load import load_predictor
from train.small import (
    ALONE,
    MEANFLOW,
    RUN,
    SMALL_15,
    batch_and_draws,
    disturbed,
    gradients,
    randomised,
    stage_config,
)


def predictor_stage(**changes: object) -> PredictorStage:
    dit = randomised(MEANFLOW, std=0.1)
    predictor = fresh_predictor(predictor_config(MEANFLOW), seed=0)
    settings = {"run": RUN, "dit": "unused", "mse_steps": 1, "discriminator_width": 8} | changes
    stage = PredictorStage(PredictorStageConfig(**settings), predictor, dit)
    stage.trained.requires_grad_(True)
    return stage


def test_the_predicted_step_is_the_one_the_runtime_takes() -> None:
    """Training's cache → prediction is policy disca's, at the same two points of a trajectory."""
    stage = predictor_stage()
    dit, predictor = stage.frozen["dit"], disturbed(stage.trained["predictor"], std=0.1)
    conditioning, shape = encode(["a red circle moving left"]), (1, 12, 2, 4, 4)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    predictor.requires_grad_(False)
    sample = Runtime(dit, predictor).sample(
        conditioning,
        schedule=preset(2, 1.0, (0,)),
        policy="disca",
        latents=noise,
        guidance_scale=3.0,
    )

    prepared = dit.prepare(conditioning, shape)
    first = Point(noise, torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([3.0]))
    cached, _ = hidden_state(dit, first, prepared)
    second = next_point(first, velocity(dit, first, prepared))
    assert (second.t.item(), second.r.item()) == (0.5, 0.0)
    last = next_point(second, predicted_velocity(dit, predictor, cached, second, prepared))
    assert torch.allclose(last.x_t, sample.latents, atol=1e-5)


def test_squared_error_alone_until_the_adversarial_steps() -> None:
    stage = predictor_stage()
    batch, draws = batch_and_draws()
    assert stage.loss(batch, draws, 0).terms.keys() == {"loss", "mse"}
    assert {"discriminator", "realism"} < stage.loss(batch, draws, 1).terms.keys()
    without = predictor_stage(adversarial=False)
    assert without.loss(batch, draws, 99).terms.keys() == {"loss", "mse"}
    assert set(without.trained) == {"predictor"}


def test_the_adversarial_loss_by_hand() -> None:
    """Error minus λ·D(fake) for the predictor alone, the hinge with real positive for D alone."""
    stage = predictor_stage(adversarial_weight=3.0)
    batch, draws = batch_and_draws()
    predictor, discriminator = stage.trained["predictor"], stage.trained["discriminator"]
    dit = stage.frozen["dit"]
    disturbed(predictor, std=0.1)  # so that fake is not reuse
    stage.loss(batch, draws, 1).total.backward()
    theirs = gradients(predictor), gradients(discriminator)
    stage.trained.zero_grad()

    point, later = draw_pair(batch, draws, stage.config)
    prepared = dit.prepare(batch.conditioning, batch.latents.shape)
    with torch.no_grad():
        cached, _ = hidden_state(dit, point, prepared)
        target = velocity(dit, later, prepared)
    prediction = predicted_velocity(dit, predictor, cached, later, prepared)
    real, fake = (
        discriminator(features(dit, next_point(later, each), prepared, stage.depths))
        for each in (target, prediction)
    )
    realism = torch.stack([each.mean() for each in fake]).mean()
    error = (prediction - target).square().mean()
    (error - 3.0 * realism).backward(inputs=list(predictor.parameters()), retain_graph=True)
    hinges = [F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)]
    torch.stack(hinges).mean().backward(inputs=list(discriminator.parameters()))
    for module, expected in zip((predictor, discriminator), theirs, strict=True):
        for ours, gradient in zip(gradients(module), expected, strict=True):
            assert gradient.any()
            assert torch.allclose(ours, gradient, rtol=1e-4, atol=1e-7)


def test_a_checkpointed_discriminator_is_the_same() -> None:
    losses, found = [], []
    for checkpointed in (False, True):
        stage = predictor_stage(run=replace(RUN, activation_checkpointing=checkpointed))
        losses.append(stage.loss(*batch_and_draws(), 1).total)
        losses[-1].backward()
        assert stage.trained["discriminator"].checkpointed == checkpointed
        found.append(gradients(stage.trained))
    assert torch.equal(*losses)
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_points_share_their_path_and_never_pass_its_end(shift: float) -> None:
    batch, draws = batch_and_draws(4)
    point, later = draw_pair(batch, draws, PredictorStageConfig(RUN, "unused", shift=shift))
    for longer, shorter in ((point.t, later.t), (point.t, point.r), (later.t, later.r)):
        assert (shorter <= longer).all()
        assert (longer - shorter).max() <= 0.2 + 1e-6
    assert torch.equal(point.t, shifted(draws.time, shift))
    if shift == 1.0:
        assert torch.equal(point.r, (draws.time - 0.2 * draws.interval).clamp(min=0))
        assert torch.equal(later.t, (draws.time - 0.2 * draws.gap).clamp(min=0))
        assert torch.allclose(later.r, (point.r - 0.2 * draws.gap).clamp(min=0), atol=1e-6)
    assert (later.r >= 0).all()
    t = later.t[:, None, None, None, None]
    assert torch.allclose((later.x_t - t * draws.noise) / (1 - t), batch.latents, atol=1e-4)
    after = next_point(later, torch.ones_like(later.x_t))
    assert torch.equal(after.t, later.r)
    assert torch.equal(after.r, (2 * later.r - later.t).clamp(min=0))


def test_feature_depths_are_spread_over_the_blocks() -> None:
    expected = {60: [14, 29, 44, 59], 17: [3, 7, 11, 16], 2: [0, 1], 1: [0]}
    assert {blocks: feature_depths(blocks) for blocks in expected} == expected


def test_fusions_learn_slower() -> None:
    stage = predictor_stage(adversarial=False, fusion_rate=0.25)
    (adamw,) = stage.optimizers()
    rates = {group["lr"]: len(group["params"]) for group in adamw.param_groups}
    assert rates == {RUN.lr: len(list(stage.trained.parameters())) - 4, RUN.lr / 4: 4}


@pytest.mark.parametrize("model", [MEANFLOW, replace(SMALL_15, meanflow=True)])
def test_a_fresh_predictor_gives_back_what_is_cached(model: DiTConfig) -> None:
    predictor = fresh_predictor(predictor_config(model), seed=0)
    generator = torch.Generator().manual_seed(0)
    current = torch.randn(2, 40, model.hidden, generator=generator)
    cached = 30 * torch.randn(2, 40, model.hidden, generator=generator)
    cached[0, 0] *= 30  # as hidden states are: a few tokens far above the others
    # SiLU(z) is z/2·(1 + z/2): at 900 a part in 36 too much or too little.
    assert relative_l2(fused(predictor, current, cached), cached) < 0.05
    assert relative_l2(fused(predictor, current[1:], cached[1:]), cached[1:]) < 2e-3
    in_bf16 = fused(predictor.bfloat16(), current[1:].bfloat16(), cached[1:].bfloat16())
    assert relative_l2(in_bf16.float(), cached[1:]) < 5e-3  # bf16's own rounding: 2e-3


def fused(predictor: Predictor, current: torch.Tensor, cached: torch.Tensor) -> torch.Tensor:
    """Fuse image tokens; the blocks behind are the identity."""
    (fusion, *_) = (m for m in predictor.modules() if isinstance(m, FusionMLP))
    with torch.no_grad():
        return fusion(current, cached)


def relative_l2(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def test_a_fresh_predictor_s_loss_is_that_of_reuse() -> None:
    stage = predictor_stage(adversarial=False)
    dit = stage.frozen["dit"]
    batch, draws = batch_and_draws()
    point, later = draw_pair(batch, draws, stage.config)
    prepared = dit.prepare(batch.conditioning, batch.latents.shape)
    with torch.no_grad():
        cached, _ = hidden_state(dit, point, prepared)
        _, context = dit.embed(later.x_t, step_inputs(dit, later), prepared)
        reused = velocity_of(dit, cached, context, prepared)
        loss = stage.loss(batch, draws, 0).total
    expected = (reused - velocity(dit, later, prepared)).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)


def test_what_a_predictor_s_run_writes_is_in_the_official_layout(tmp_path: Path) -> None:
    """Trained is a factored form of the fusion; written is what it computes with."""
    config = stage_config("predictor", tmp_path)
    config = replace(config, adversarial=False, run=replace(RUN, steps=2, ema=0.0))
    stage = build_stage(config, None)
    stage.trained.requires_grad_(True)
    path = train(stage, config, TrainingClips(), tmp_path / "run", ALONE)
    written = load_predictor(path, dtype=torch.float32)
    trained = stage.trained["predictor"]
    current, cached = torch.randn(2, 2, 9, MEANFLOW.hidden).unbind()
    # Weights are written in bf16, whose rounding is 2^-9, or 2e-3, of each.
    assert relative_l2(fused(written, current, cached), fused(trained, current, cached)) < 4e-3
