"""Every stage: its targets by hand, where gradients go, and that it does learn."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from disca_rt.models.dit import StepInputs
from disca_rt.tiny.prompts import encode
from disca_rt.tiny.training_clips import unconditional
from disca_rt.train.build import build_stage
from disca_rt.train.cfg_distill import CFGStage, CFGStageConfig
from disca_rt.train.data import Batch
from disca_rt.train.draws import draw
from disca_rt.train.flow import Point, step_inputs, velocity
from disca_rt.train.flow_matching import BaseStage, BaseStageConfig
from disca_rt.train.meanflow import MeanFlowStageConfig, draw_point
from disca_rt.train.optimizers import make_optimizers
from disca_rt.train.stage import Stage
from train.small import (
    CACHE,
    CFG,
    MEANFLOW,
    RUN,
    SMALL,
    SMALL_15,
    STAGES,
    batch_and_draws,
    conditioning_15,
    disturbed,
    randomised,
    saved,
    stage_config,
)


def test_a_fresh_base_model_has_the_variance_of_the_target_as_its_loss(tmp_path: Path) -> None:
    stage = build_stage(stage_config("base", tmp_path), unconditional())
    batch, draws = batch_and_draws(16)
    variance = (draws.noise - batch.latents).square().mean().item()
    assert stage.loss(batch, draws, 0).total.item() == pytest.approx(variance, rel=1e-5)


def test_a_share_of_prompts_is_emptied() -> None:
    model = randomised(SMALL)
    batch, draws = batch_and_draws(8)
    empty = batch._replace(conditioning=encode([""] * 8))

    def loss(share: float, batch=batch) -> float:
        config = BaseStageConfig(RUN, SMALL, drop_conditioning=share)
        return BaseStage(config, model, unconditional()).loss(batch, draws, 0).total.item()

    by_hand = loss(0.0, empty)
    assert loss(1.0) == pytest.approx(by_hand, rel=1e-5)
    assert loss(0.0) != pytest.approx(by_hand, rel=1e-3)


def test_cfg_distillation_learns_what_the_runtime_guides_with() -> None:
    teacher, student = randomised(SMALL), randomised(CFG, seed=1)
    stage = CFGStage(CFGStageConfig(RUN, "unused"), student, teacher, unconditional())
    batch, draws = batch_and_draws(2)
    shape, guidance = batch.latents.shape, 1 + 7 * draws.guidance
    x_t = torch.lerp(batch.latents, draws.noise, draws.time[:, None, None, None, None])
    step = StepInputs(1000 * draws.time)
    v_c = teacher(x_t, step, teacher.prepare(batch.conditioning, shape))
    v_uc = teacher(x_t, step, teacher.prepare(encode(["", ""]), shape))
    rows = zip(v_c, v_uc, guidance.tolist(), strict=True)
    target = torch.stack([uc + g * (c - uc) for c, uc, g in rows])
    guided = StepInputs(1000 * draws.time, None, 1000 * guidance)
    ours = student(x_t, guided, student.prepare(batch.conditioning, shape))
    by_hand = (ours - target).square().mean()
    assert stage.loss(batch, draws, 0).total.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_a_teacher_in_bf16_and_its_student_are_given_the_same_guidance() -> None:
    run_in_bf16 = replace(RUN, bf16=True)
    teacher, student = randomised(CFG).bfloat16(), randomised(CFG)
    batch, draws = batch_and_draws()
    point = draw_point(batch, draws, MeanFlowStageConfig(run_in_bf16, "unused"))
    theirs, ours = (step_inputs(dit, point).guidance for dit in (teacher, student))
    assert torch.equal(theirs, ours)
    assert (theirs.float() - 1000 * point.guidance.float()).abs().max() > 0  # the model's rounding


LAST = "double_blocks.{}.txt_(attn_q|attn_proj|mlp)"
UNSEEN = {
    "1.0": re.compile(r".*(k_norm|attn_k|qkv.bias|linear1.bias)$"),
    "1.5": re.compile(
        rf".*attn_k.bias$|student.{LAST.format(SMALL_15.double - 1)}|predictor.{LAST.format(1)}"
    ),
}
"""Parameters without a gradient, by family: a bias of all keys is nothing to a softmax, and nobody
reads what the last double-stream block makes of text."""


@pytest.mark.parametrize(
    ("family", "name", "changes"),
    [
        *(("1.0", name, {}) for name in STAGES),
        *(("1.5", name, {}) for name in STAGES if name != "base"),
        ("1.5", "meanflow", {"derivative": "jvp"}),
    ],
)
def test_gradients_reach_what_is_trained_and_nothing_else(
    family: str, name: str, changes: dict, tmp_path: Path
) -> None:
    batch, draws = batch_and_draws(2)
    sizes, empty = SMALL, unconditional()
    if family == "1.5":
        sizes, empty = SMALL_15, conditioning_15(1)
        draws = draw(0, range(2), (4, 2, 4, 4), strata=2)
        batch = Batch(draws.noise.flip(0), conditioning_15(2))
    config = stage_config(name, tmp_path, sizes, **changes)
    stage = build_stage(replace(config, run=replace(RUN, batch=2)), empty)
    disturbed(stage.trained)
    loss = stage.loss(batch, draws, step=10)
    assert torch.isfinite(torch.stack(list(loss.terms.values()))).all()
    loss.total.backward()
    found = {n: p.grad for n, p in stage.trained.named_parameters()}
    missing = [n for n, g in found.items() if g is None or not g.any()]
    assert [n for n in missing if not UNSEEN[family].match(n)] == []
    assert all(g is None or torch.isfinite(g).all() for g in found.values())
    assert all(p.grad is None for p in stage.frozen.parameters())


@pytest.mark.parametrize("name", [name for name in STAGES if name not in CACHE])
def test_a_stage_learns_one_batch(name: str, tmp_path: Path) -> None:
    config = replace(stage_config(name, tmp_path), run=replace(RUN, lr=3e-3))
    if name == "predictor":
        config = replace(config, adversarial=False)
    stage = build_stage(config, unconditional())
    stage.trained.requires_grad_(True)
    batch, draws = batch_and_draws(2)
    optimizers, losses = stage.optimizers(), []
    for _ in range(11):
        loss = stage.loss(batch, draws, 0).total
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0]  # measured 0.08 (meanflow) to 0.60 (base), two seeds


@pytest.mark.parametrize("name", STAGES)
def test_every_trained_parameter_has_one_optimizer(name: str, tmp_path: Path) -> None:
    config = stage_config(name, tmp_path)
    stage = build_stage(replace(config, run=replace(RUN, muon_lr=1e-3)), unconditional())
    stepped = [p for o in stage.optimizers() for g in o.param_groups for p in g["params"]]
    assert len(stepped) == len({id(p) for p in stepped}) == len(list(stage.trained.parameters()))


def test_muon_has_the_matrices_of_blocks() -> None:
    model = randomised(SMALL)
    muon, adamw = make_optimizers(model, replace(RUN, muon_lr=1e-3))
    names = {id(p): n for n, p in model.named_parameters()}
    matrices = {names[id(p)] for p in muon.param_groups[0]["params"]}
    assert {name.split(".")[0] for name in matrices} == {"double_blocks", "single_blocks"}
    assert not any("mod" in name for name in matrices)
    assert len(adamw.param_groups[0]["params"]) + len(matrices) == len(names)


@pytest.mark.parametrize("name", [name for name in STAGES if name not in CACHE])
def test_weights_of_the_wrong_variant_are_refused(name: str, tmp_path: Path) -> None:
    role = {"base": "model", "predictor": "dit"}.get(name, "teacher")
    wrong = CFG if name == "predictor" else MEANFLOW
    given = (
        wrong if name == "base" else saved(randomised(wrong), tmp_path / "w" / "dit.safetensors")
    )
    config = replace(stage_config(name, tmp_path), **{role: given})
    with pytest.raises(ValueError, match=rf"{role} must be .*, got a (meanflow|cfg-distilled)"):
        build_stage(config, unconditional())


def test_a_base_run_starts_from_shallower_weights(tmp_path: Path) -> None:
    shallow = randomised(SMALL)
    start = saved(shallow, tmp_path / "dit.safetensors")

    def stage(**sizes: int) -> Stage:
        config = BaseStageConfig(RUN, replace(SMALL, **sizes), start)
        return build_stage(config, unconditional())

    deep = stage(single=5).trained["model"]
    batch, draws = batch_and_draws(2)
    point = Point(draws.noise, draws.time, draws.time, draws.time)
    ours, theirs = (
        velocity(model, point, model.prepare(batch.conditioning, draws.noise.shape))
        for model in (deep, shallow)
    )
    assert torch.equal(ours, theirs)
    assert ours.abs().max() > 0.1
    copied = deep.single_blocks[3].state_dict(), shallow.single_blocks[2].state_dict()
    assert all(map(torch.equal, *(each.values() for each in copied)))  # 0, 1, 2 became 0, 1, 3
    with pytest.raises(ValueError, match="single-stream blocks only"):
        stage(double=2)
    with pytest.raises(ValueError, match="cannot grow from 3 single-stream blocks to 2"):
        stage(single=2)


@pytest.mark.parametrize("name", ["base", "cfg", "l2c"])
def test_stages_that_empty_prompts_need_the_empty_prompt(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--unconditional"):
        build_stage(stage_config(name, tmp_path), None)
