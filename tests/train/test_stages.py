"""What each stage learns: its targets by hand, where gradients go, and that it does learn."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from disca_rt.cache.disca import DisCaPolicy
from disca_rt.conditioning import Conditioning
from disca_rt.config import DiTConfig, predictor_config
from disca_rt.models.dit import DiT, StepInputs
from disca_rt.models.predictor import FusionMLP, Predictor
from disca_rt.pipeline.runtime import Runtime
from disca_rt.schedule import preset
from disca_rt.tiny.config import TINY
from disca_rt.tiny.prompts import encode
from disca_rt.tiny.training_clips import TrainingClips, unconditional
from disca_rt.train.build import build_stage
from disca_rt.train.cfg_distill import CFGStage, CFGStageConfig
from disca_rt.train.data import Batch, make_reader, read_batch
from disca_rt.train.discriminator import (
    Discriminator,
    Features,
    discriminator_parameters,
    hinge_loss,
)
from disca_rt.train.draws import Draws, draw
from disca_rt.train.flow import (
    Point,
    hidden_state,
    shifted,
    step_inputs,
    velocity,
    velocity_of,
)
from disca_rt.train.flow_matching import BaseStage, BaseStageConfig
from disca_rt.train.grow import spread
from disca_rt.train.initialise import deepened, fresh_predictor
from disca_rt.train.meanflow import MeanFlowStageConfig, draw_point
from disca_rt.train.optimizers import make_optimizers
from disca_rt.train.predictor import (
    PredictorStage,
    PredictorStageConfig,
    draw_pair,
    feature_depths,
    features,
    next_point,
    predicted_velocity,
)
from disca_rt.train.presets import tiny_predictor
from disca_rt.train.trainer import train
from disca_rt.weights.load import load_predictor
from train.small import (
    ALONE,
    CFG,
    MEANFLOW,
    RUN,
    SMALL,
    SMALL_15,
    STAGES,
    randomised,
    run,
    saved,
)


def batch_and_draws(size: int = 4) -> tuple[Batch, Draws]:
    batch = read_batch(make_reader(TrainingClips(), 0), range(size))
    return batch, draw(0, range(size), batch.latents.shape[1:], strata=size)


def test_a_fresh_base_model_has_the_variance_of_the_target_as_its_loss(tmp_path: Path) -> None:
    stage = build_stage(STAGES["base"](tmp_path), unconditional())
    batch, draws = batch_and_draws(16)
    target = draws.noise - batch.latents
    assert stage.loss(batch, draws, 0).total.item() == pytest.approx(
        target.square().mean().item(), rel=1e-5
    )


def test_a_share_of_prompts_is_emptied() -> None:
    model = randomised(SMALL)
    batch, draws = batch_and_draws(8)
    losses = {}
    for share in (0.0, 1.0):
        config = BaseStageConfig(RUN, SMALL, drop_conditioning=share)
        losses[share] = BaseStage(config, model, unconditional()).loss(batch, draws, 0).total
    empty = batch._replace(conditioning=Conditioning(*encode([""] * 8)))
    config = BaseStageConfig(RUN, SMALL, drop_conditioning=0.0)
    by_hand = BaseStage(config, model, unconditional()).loss(empty, draws, 0).total
    assert losses[1.0].item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert losses[0.0].item() != pytest.approx(by_hand.item(), rel=1e-3)


def test_shift_moves_t_towards_noise() -> None:
    t = torch.linspace(0, 1, 11)
    assert torch.equal(shifted(t, 1.0), t)
    assert (shifted(t, 3.0) >= t).all()
    assert shifted(t, 3.0)[[0, -1]].tolist() == [0, 1]


def test_cfg_distillation_learns_what_the_runtime_guides_with() -> None:
    teacher, student = randomised(SMALL), randomised(CFG, seed=1)
    stage = CFGStage(CFGStageConfig(RUN, "unused"), student, teacher, unconditional())
    batch, draws = batch_and_draws(2)
    shape, guidance = batch.latents.shape, 1 + 7 * draws.guidance
    x_t = torch.lerp(batch.latents, draws.noise, draws.time[:, None, None, None, None])
    step = StepInputs(1000 * draws.time)
    v_c = teacher(x_t, step, teacher.prepare(batch.conditioning, shape))
    v_uc = teacher(x_t, step, teacher.prepare(Conditioning(*encode(["", ""])), shape))
    rows = zip(v_c, v_uc, guidance.tolist(), strict=True)
    target = torch.stack([uc + g * (c - uc) for c, uc, g in rows])
    ours = student(
        x_t,
        StepInputs(1000 * draws.time, None, 1000 * guidance),
        student.prepare(batch.conditioning, shape),
    )
    by_hand = (ours - target).square().mean()
    assert stage.loss(batch, draws, 0).total.item() == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.parametrize("name", STAGES)
def test_gradients_reach_what_is_trained_and_nothing_else(name: str, tmp_path: Path) -> None:
    stage = build_stage(STAGES[name](tmp_path), unconditional())
    stage.trained.requires_grad_(True)
    with torch.no_grad():
        for each in stage.trained.parameters():  # nothing hides behind a zero gate
            each.add_(0.05 * torch.randn(each.shape, generator=torch.Generator().manual_seed(0)))
    batch, draws = batch_and_draws()
    stage.loss(batch, draws, step=10).total.backward()
    missing = [n for n, p in stage.trained.named_parameters() if p.grad is None or not p.grad.any()]
    allowed = ("k_norm", "attn_k", "qkv.bias", "linear1.bias")
    assert [n for n in missing if not n.endswith(allowed)] == []
    assert all(p.grad is None for p in stage.frozen.parameters())


@pytest.mark.parametrize("name", STAGES)
def test_every_trained_parameter_has_one_optimizer(name: str, tmp_path: Path) -> None:
    config = STAGES[name](tmp_path)
    stage = build_stage(replace(config, run=replace(RUN, muon_lr=1e-3)), unconditional())
    stepped = [p for o in stage.optimizers() for g in o.param_groups for p in g["params"]]
    assert len(stepped) == len({id(p) for p in stepped}) == len(list(stage.trained.parameters()))


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_learns_one_batch(name: str, tmp_path: Path) -> None:
    config = replace(STAGES[name](tmp_path), run=replace(RUN, lr=3e-3))
    if name == "predictor":
        config = replace(config, adversarial=False)
    stage = build_stage(config, unconditional())
    stage.trained.requires_grad_(True)
    batch, draws = batch_and_draws(2)
    optimizers, losses = stage.optimizers(), []
    for _ in range(25):
        loss = stage.loss(batch, draws, 0).total
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_muon_has_the_matrices_of_blocks() -> None:
    model = randomised(SMALL)
    muon, adamw = make_optimizers(model, replace(RUN, muon_lr=1e-3))
    names = {id(p): n for n, p in model.named_parameters()}
    matrices = {names[id(p)] for p in muon.param_groups[0]["params"]}
    assert {name.split(".")[0] for name in matrices} == {"double_blocks", "single_blocks"}
    assert not any("mod" in name for name in matrices)
    assert len(adamw.param_groups[0]["params"]) + len(matrices) == len(names)


# --- the predictor -------------------------------------------------------------------------------


def predictor_stage(**changes: object) -> PredictorStage:
    dit = randomised(MEANFLOW, std=0.1)
    predictor = fresh_predictor(predictor_config(MEANFLOW), seed=0)
    settings = {"run": RUN, "dit": "unused", "mse_steps": 1, "discriminator_width": 8} | changes
    config = PredictorStageConfig(**settings)
    return PredictorStage(config, predictor.requires_grad_(True), dit)


def test_the_predicted_step_is_the_one_the_runtime_takes() -> None:
    """Training's cache → prediction is DisCaPolicy's, at the same two points of a trajectory."""
    stage = predictor_stage()
    dit, predictor = stage.frozen["dit"], stage.trained["predictor"]
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.add_(
                0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            )
    conditioning, shape = Conditioning(*encode(["a red circle moving left"])), (1, 12, 2, 4, 4)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    schedule = preset(2, 1.0, (0,))
    predictor.requires_grad_(False)
    sample = Runtime(dit, predictor).sample(
        conditioning,
        schedule=schedule,
        policy=DisCaPolicy(predictor),
        latents=noise,
        guidance_scale=3.0,
    )

    def at(x_t, t, r):
        return Point(x_t, torch.tensor([t]), torch.tensor([r]), torch.tensor([3.0]))

    prepared = dit.prepare(conditioning, shape)
    first = at(noise, 1.0, 0.5)
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


def test_the_discriminators_loss_reaches_no_predictor() -> None:
    """All gradient of the predictor comes from its own two terms."""
    gradients = []
    for weight in (0.0, 1.0):
        stage = predictor_stage(adversarial_weight=weight)
        stage.trained.requires_grad_(True)
        batch, draws = batch_and_draws()
        total, terms = stage.loss(batch, draws, 1)
        total.backward()
        gradients.append([p.grad for p in stage.trained["predictor"].parameters()])
        assert terms["discriminator"] > 0
    squares = predictor_stage(adversarial=False)
    squares.loss(batch, draws, 1).total.backward()
    alone = [p.grad for p in squares.trained["predictor"].parameters()]
    assert all(map(torch.allclose, gradients[0], alone))
    assert not all(map(torch.allclose, gradients[1], alone))


def test_a_teacher_in_bf16_and_its_student_are_given_the_same_guidance() -> None:
    run_in_bf16 = replace(RUN, bf16=True)
    teacher, student = randomised(CFG).bfloat16(), randomised(CFG)
    batch, draws = batch_and_draws()
    point = draw_point(batch, draws, MeanFlowStageConfig(run_in_bf16, "unused"))
    theirs, ours = (step_inputs(dit, point).guidance for dit in (teacher, student))
    assert torch.equal(theirs, ours)
    assert (theirs.float() - 1000 * point.guidance.float()).abs().max() > 0  # the model's rounding


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_points_share_their_path_and_never_pass_its_end(shift: float) -> None:
    stage = predictor_stage(shift=shift)
    batch, draws = batch_and_draws(4)
    point, later = draw_pair(batch, draws, stage.config)
    assert (later.t <= point.t).all()
    assert (point.t - later.t).max() <= 0.2 + 1e-6
    assert all((each.t - each.r >= 0).all() for each in (point, later))
    assert all((each.t - each.r).max() <= 0.2 + 1e-6 for each in (point, later))
    if shift == 1.0:
        assert torch.equal(point.t, draws.time)
        assert torch.equal(point.r, (draws.time - 0.2 * draws.interval).clamp(min=0))
        assert torch.equal(later.t, (draws.time - 0.2 * draws.gap).clamp(min=0))
        assert torch.allclose(later.r, (point.r - 0.2 * draws.gap).clamp(min=0), atol=1e-6)
    else:
        assert torch.equal(point.t, shifted(draws.time, shift))
    assert (later.r >= 0).all()
    clean = (later.x_t - later.t[:, None, None, None, None] * draws.noise) / (
        1 - later.t[:, None, None, None, None]
    )
    assert torch.allclose(clean, batch.latents, atol=1e-4)
    after = next_point(later, torch.ones_like(later.x_t))
    assert torch.equal(after.t, later.r)
    assert torch.equal(after.r, (2 * later.r - later.t).clamp(min=0))


def test_the_discriminator_raises_real_and_the_predictor_raises_fake() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(hidden=8, depths=2, width=4)
    grid = (1, 4, 4)
    real, fake = (Features([torch.randn(2, 16, 8) for _ in range(2)], grid) for _ in range(2))
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        discriminator.advance()
        loss = hinge_loss(discriminator(real), discriminator(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(2, abs=0.3)
    assert losses[-1] < 0.7 * losses[0]
    means = [torch.stack([x.mean() for x in discriminator(each)]).mean() for each in (real, fake)]
    assert means[0] > means[1]
    hidden = [h.clone().requires_grad_(True) for h in fake.hidden]
    optimizer.zero_grad()
    score = torch.stack(
        [x.mean() for x in discriminator.frozen_logits(Features(hidden, grid))]
    ).mean()
    score.backward()
    assert all(p.grad is None for p in discriminator.parameters())
    moved = Features([(h + 5 * h.grad / h.grad.norm()).detach() for h in hidden], grid)
    assert torch.stack([x.mean() for x in discriminator(moved)]).mean() > score


def test_the_adversarial_loss_by_hand() -> None:
    """Error minus λ·D(fake) for the predictor, the hinge with real positive for D."""
    stage = predictor_stage(adversarial_weight=3.0)
    stage.trained.requires_grad_(True)
    batch, draws = batch_and_draws()
    predictor, discriminator = stage.trained["predictor"], stage.trained["discriminator"]
    dit, modules = stage.frozen["dit"], (predictor, discriminator)
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))  # so that fake is not reuse
    stage.loss(batch, draws, 1).total.backward()
    theirs = [[p.grad.clone() for p in module.parameters()] for module in modules]
    stage.trained.zero_grad()

    point, later = draw_pair(batch, draws, stage.config)
    prepared = dit.prepare(batch.conditioning, batch.latents.shape)
    with torch.no_grad():
        cached, _ = hidden_state(dit, point, prepared)
        target = velocity(dit, later, prepared)
    prediction = predicted_velocity(dit, predictor, cached, later, prepared)
    looks = [
        features(dit, next_point(later, each), prepared, stage.depths)
        for each in (target, prediction)
    ]
    real, fake = (discriminator(each) for each in looks)
    realism = torch.stack([each.mean() for each in fake]).mean()
    error = (prediction - target).square().mean()
    (error - 3.0 * realism).backward(inputs=list(predictor.parameters()), retain_graph=True)
    hinges = [F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)]
    torch.stack(hinges).mean().backward(inputs=list(discriminator.parameters()))
    for module, expected in zip(modules, theirs, strict=True):
        for parameter, gradient in zip(module.parameters(), expected, strict=True):
            assert torch.allclose(parameter.grad, gradient, rtol=1e-4, atol=1e-7)


def test_a_grid_may_be_smaller_than_what_the_discriminator_pools() -> None:
    discriminator = Discriminator(hidden=8, depths=1, width=4)
    logits = discriminator(Features([torch.randn(2, 6, 8)], (2, 1, 3)))
    assert [tuple(each.shape) for each in logits] == [
        (2, 1, 2, 1, 3),
        (2, 1, 2, 1, 2),
        (2, 1, 2, 1, 1),
    ]


def test_the_discriminator_tells_blurred_from_sharp_with_the_preset_s_settings() -> None:
    """A positive control: a hinge of 1.99 on a real run means too close, not broken."""
    config, grid = tiny_predictor("dit"), (3, 8, 8)
    depths = len(feature_depths(TINY.double + TINY.single))
    torch.manual_seed(0)
    discriminator = Discriminator(TINY.hidden, depths, config.discriminator_width)
    optimizers = make_optimizers(discriminator, config.run, config.discriminator_lr)
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(TINY.hidden, 8, generator=generator)  # few, as of hidden states

    def look() -> float:
        """At sharp and blurred tokens that it has not seen."""
        sharp = torch.randn(depths * 4, 8, *grid, generator=generator)
        blurred = F.avg_pool3d(sharp, (1, 3, 3), 1, (0, 1, 1), count_include_pad=False)
        real, fake = (
            Features((each.flatten(2).mT @ directions.T).unflatten(0, (depths, 4)), grid)
            for each in (sharp, blurred)
        )
        loss = hinge_loss(discriminator(real), discriminator(fake))
        loss.backward()
        return loss.item()

    hinges = []
    for _ in range(41):
        discriminator.advance()
        hinges.append(look())
        torch.nn.utils.clip_grad_norm_(discriminator.parameters(), config.run.clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert hinges[0] == pytest.approx(2, abs=0.1)
    assert hinges[-1] < 1.65, hinges[-1]


def test_a_checkpointed_discriminator_is_the_same_and_keeps_only_features() -> None:
    losses, gradients = [], []
    for checkpointed in (False, True):
        stage = predictor_stage(run=replace(RUN, activation_checkpointing=checkpointed))
        stage.trained.requires_grad_(True)
        loss = stage.loss(*batch_and_draws(), 1).total
        loss.backward()
        assert stage.trained["discriminator"].checkpointed == checkpointed
        losses.append(loss)
        gradients.append([parameter.grad for parameter in stage.trained.parameters()])
    assert torch.equal(*losses)
    assert all(map(torch.equal, *gradients))


def test_spectral_norms_bound_the_discriminator() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(hidden=8, depths=1, width=4)
    count = sum(parameter.numel() for parameter in discriminator.parameters())
    assert discriminator_parameters(hidden=8, depths=1, width=4) == count
    features = Features([torch.randn(1, 16, 8)], (1, 4, 4))
    before = discriminator(features)
    for _ in range(3):  # looking changes nothing
        again = discriminator.train()(features)
    assert all(map(torch.equal, before, again))
    for _ in range(30):
        discriminator.advance()
    for module in discriminator.modules():
        if isinstance(module, torch.nn.Conv3d):
            norm = torch.linalg.matrix_norm(module.weight.detach().flatten(1), 2)
            assert norm.item() == pytest.approx(1, abs=0.05)


def test_feature_depths_are_spread_over_the_blocks() -> None:
    assert feature_depths(60) == [14, 29, 44, 59]
    assert feature_depths(17) == [3, 7, 11, 16]
    assert feature_depths(2) == [0, 1]
    assert feature_depths(1) == [0]


# --- where training starts -----------------------------------------------------------------------


def test_a_deeper_model_starts_as_the_shallow_one() -> None:
    shallow = randomised(replace(SMALL, single=2))
    deep = deepened(shallow, replace(SMALL, single=5), seed=1)
    batch, draws = batch_and_draws(2)
    point = Point(draws.noise, draws.time, draws.time, draws.time)
    ours, theirs = (
        velocity(m, point, m.prepare(batch.conditioning, batch.latents.shape))
        for m in (deep, shallow)
    )
    assert torch.equal(ours, theirs)
    assert ours.abs().max() > 0.1
    with pytest.raises(ValueError, match="single-stream blocks only"):
        deepened(shallow, replace(SMALL, double=2), seed=1)


def test_blocks_are_spread_evenly_and_never_lost() -> None:
    assert spread(4, 14) == [0, 3, 7, 10]
    assert spread(3, 3) == [0, 1, 2]
    with pytest.raises(ValueError, match="cannot grow from 4 single-stream blocks to 3"):
        spread(4, 3)


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
    """Image tokens behind the fusion; the blocks are the identity."""
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
    config = STAGES["predictor"](tmp_path)
    config = replace(config, adversarial=False, run=replace(RUN, steps=2, ema=0.0))
    stage = build_stage(config, None)
    stage.trained.requires_grad_(True)
    path = train(stage, config, TrainingClips(), tmp_path / "run", ALONE)
    written = load_predictor(path, dtype=torch.float32)
    trained = stage.trained["predictor"]
    current, cached = torch.randn(2, 2, 9, MEANFLOW.hidden).unbind()
    assert relative_l2(fused(written, current, cached), fused(trained, current, cached)) < 1e-2


def test_fusions_learn_slower() -> None:
    stage = predictor_stage(adversarial=False, fusion_rate=0.25)
    (adamw,) = stage.optimizers()
    rates = {group["lr"]: len(group["params"]) for group in adamw.param_groups}
    assert rates == {RUN.lr: len(list(stage.trained.parameters())) - 4, RUN.lr / 4: 4}


def test_a_run_starts_from_shallower_weights(tmp_path: Path) -> None:
    start = saved(randomised(replace(SMALL, single=1)), tmp_path / "dit.safetensors")
    config = BaseStageConfig(replace(RUN, steps=1), SMALL, start)
    path, _ = run(config, tmp_path / "deep")
    assert path.exists()


@pytest.mark.parametrize("name", STAGES)
def test_weights_of_the_wrong_variant_are_refused(name: str, tmp_path: Path) -> None:
    config = STAGES[name](tmp_path)
    wrong = saved(
        randomised(MEANFLOW if name != "predictor" else CFG), tmp_path / "wrong" / "dit.safetensors"
    )
    if name == "base":
        config = replace(config, model=MEANFLOW)
    else:
        config = replace(config, **{"dit" if name == "predictor" else "teacher": wrong})
    with pytest.raises(
        ValueError, match=r"(model|teacher|dit) must be .*, got a (meanflow|cfg-distilled)"
    ):
        build_stage(config, unconditional())


def test_stages_that_empty_prompts_need_the_empty_prompt(tmp_path: Path) -> None:
    for name in ("base", "cfg"):
        with pytest.raises(ValueError, match="--unconditional"):
            build_stage(STAGES[name](tmp_path), None)


def test_a_dit_is_what_a_stage_exports(tmp_path: Path) -> None:
    assert isinstance(build_stage(STAGES["base"](tmp_path), unconditional()).trained["model"], DiT)
