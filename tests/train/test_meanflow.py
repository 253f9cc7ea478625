"""Restricted MeanFlow: both derivatives against each other and against fp64, and its start."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from disca_rt.attention.local import LocalAttention
from disca_rt.conditioning import Conditioning
from disca_rt.models.dit import DiT
from disca_rt.tiny.prompts import encode
from disca_rt.tiny.training_clips import TrainingClips
from disca_rt.train.data import Batch
from disca_rt.train.draws import Draws, draw
from disca_rt.train.flow import Point, velocity
from disca_rt.train.initialise import with_guidance, with_r
from disca_rt.train.meanflow import (
    MeanFlowStage,
    MeanFlowStageConfig,
    difference,
    draw_point,
    exact_derivative,
)
from disca_rt.train.presets import tiny_meanflow
from disca_rt.train.stage import Loss
from disca_rt.weights.load import load_dit
from train.small import CFG, RUN, SMALL_15, conditioning_15, randomised, run, saved

ROOT = Path(__file__).parents[2]
PROMPTS = ("a red circle moving left", "a white cross standing still on a navy background")


class InDouble(TorchFunctionMode):
    """`.float()`, by which the model keeps parts of itself in fp32, keeps them in fp64."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        func = torch.Tensor.double if func is torch.Tensor.float else func
        return func(*args, **(kwargs or {}))


def small_10() -> tuple[DiT, Conditioning, tuple[int, ...]]:
    student = with_r(randomised(CFG), seed=0, attention=LocalAttention("math"))
    return student, encode(PROMPTS), (2, 12, 2, 4, 4)


def small_15() -> tuple[DiT, Conditioning, tuple[int, ...]]:
    student = with_r(randomised(SMALL_15), seed=0, attention=LocalAttention("math"))
    return student, conditioning_15(2), (2, 4, 2, 4, 4)


FAMILIES: dict[str, Callable[[], tuple[DiT, Conditioning, tuple[int, ...]]]] = {
    "1.0": small_10,
    "1.5": small_15,
}


def some_point(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Point, Tensor]:
    g = torch.Generator().manual_seed(1)
    x_t, v = torch.randn(2, *shape, generator=g).to(dtype)
    t, r = torch.tensor([0.7, 0.35], dtype=dtype), torch.tensor([0.55, 0.3], dtype=dtype)
    return Point(x_t, t, r, torch.tensor([2.0, 6.5], dtype=dtype)), v


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("family", FAMILIES)
def test_derivatives_agree_with_fp64(family: str) -> None:
    student, conditioning, shape = FAMILIES[family]()
    with torch.no_grad():  # r = t at the start: make the model depend on r
        student.time_r_in.mlp[2].weight.normal_(std=0.2, generator=torch.Generator().manual_seed(2))
    point, v = some_point(shape)
    prepared = student.prepare(conditioning, shape)
    u, exact = exact_derivative(student, point, v, prepared)
    assert torch.equal(u, velocity(student, point, prepared))
    # The fastest sinusoid of the timestep turns by one radian per 1e-3 of t.
    coarse = difference(student, point, v, prepared, step=1e-4)
    with InDouble():
        double = student.double()
        point, v = some_point(shape, torch.float64)
        point, v = Point(*(x.float() for x in point)), v.float()  # fp64, by InDouble
        prepared = double.prepare(conditioning, shape)
        fine = difference(double, point, v, prepared, step=1e-6)
        twice = difference(double, point, v, prepared, step=2e-6)
    assert relative(twice, fine) < 1e-5  # the reference itself has converged
    assert relative(exact, fine) < 1e-4
    assert relative(coarse, fine) < 5e-3
    assert fine.norm() > 0.1 * v.norm()


def test_the_preset_s_difference_is_near_the_derivative_of_the_trained_model() -> None:
    """MeanFlow begins as the ladder's cfg-distilled model; t is over the whole range."""
    teacher = load_dit(ROOT / "ladder" / "cfg-distilled.safetensors", dtype=torch.float32)
    student = with_r(teacher, seed=0, attention=LocalAttention("math"))
    conditioning, shape = encode(PROMPTS), (2, 12, 5, 12, 16)
    clean, noise = TrainingClips().at(0)[0].float(), torch.randn(shape, generator=generator(1))
    step = tiny_meanflow("unused").difference_step
    prepared, errors = student.prepare(conditioning, shape), {}
    for t in (0.05, 0.35, 0.65, 0.95):
        time, guidance = torch.full((2,), t), torch.tensor([2.0, 6.0])
        point = Point(torch.lerp(clean, noise, t), time, (time - 0.1).clamp(min=0), guidance)
        v = velocity(teacher, point, prepared)
        _, exact = exact_derivative(student, point, v, prepared)
        errors[t] = relative(difference(student, point, v, prepared, step), exact)
    # Measured 0.014, 0.032, 0.033, 0.019; a step of 0.005 is 0.2 to 0.8 away.
    assert max(errors.values()) < 0.05, errors


def test_a_difference_at_the_ends_of_the_path_stays_on_it() -> None:
    student, conditioning, shape = small_10()
    point, v = some_point(shape)
    prepared = student.prepare(conditioning, shape)
    seen = []
    student.time_in.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    ends = point._replace(t=torch.tensor([1.0, 0.0]), r=torch.tensor([0.9, 0.0]))
    one_sided = difference(student, ends, v, prepared, step=2e-5)
    assert torch.cat(seen).min() >= 0
    assert torch.cat(seen).max() <= 1000
    _, exact = exact_derivative(student, ends, v, prepared)
    assert relative(one_sided, exact) < 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_begins_as_its_teacher_at_any_r(family: str) -> None:
    student, conditioning, shape = FAMILIES[family]()
    teacher = randomised(CFG if family == "1.0" else SMALL_15)
    point, _ = some_point(shape)
    theirs = velocity(teacher, point, teacher.prepare(conditioning, shape))
    prepared = student.prepare(conditioning, shape)
    for r in (point.t, point.r, torch.zeros(2)):
        assert relative(velocity(student, point._replace(r=r), prepared), theirs) < 1e-6
    assert theirs.abs().max() > 0.1


def test_a_guided_student_begins_as_its_teacher_at_any_scale() -> None:
    teacher = randomised(replace(CFG, guidance_embed=False))
    student = with_guidance(teacher, seed=0)
    conditioning, shape = encode(PROMPTS), (2, 12, 2, 4, 4)
    point, _ = some_point(shape)
    theirs = velocity(teacher, point, teacher.prepare(conditioning, shape))
    assert torch.equal(velocity(student, point, student.prepare(conditioning, shape)), theirs)


@pytest.mark.parametrize("shift", [1.0, 5.0])
@pytest.mark.parametrize("restriction", [0.2, 0.4, 1.0])
def test_intervals_are_restricted_in_the_time_of_the_sampler(
    restriction: float, shift: float
) -> None:
    shape = (12, 1, 2, 2)
    draws = draw(0, range(2000), shape, strata=2000)
    batch = Batch(torch.zeros(2000, *shape), encode(["a red circle moving left"]))
    config = MeanFlowStageConfig(RUN, "unused", restriction=restriction, shift=shift)
    point = draw_point(batch, draws, config)
    t, r = (each / (shift - (shift - 1) * each) for each in (point.t, point.r))  # not shifted
    interval = t - r
    assert interval.min() >= 0
    assert interval.max() <= restriction + 1e-5
    assert r.min() == 0
    assert torch.allclose(t, draws.time, atol=1e-5)
    inside = t > restriction
    if restriction < 1:
        assert interval[inside].mean().item() == pytest.approx(restriction / 2, rel=0.05)
    assert 1 <= point.guidance.min() < 1.1
    assert 7.9 < point.guidance.max() <= 8
    assert torch.equal(point.x_t, draws.noise * point.t[:, None, None, None, None])


def test_the_target_is_the_meanflow_identity() -> None:
    student, conditioning, shape = small_10()
    teacher = randomised(CFG)
    config = MeanFlowStageConfig(RUN, "unused")
    stage = MeanFlowStage(config, student, teacher)
    student.requires_grad_(True)
    draws = draw(0, range(2), shape[1:], strata=2)
    batch = Batch(torch.zeros(shape), conditioning)
    loss = stage.loss(batch, draws, step=0)
    point = draw_point(batch, draws, config)
    prepared = student.prepare(conditioning, shape)
    v = velocity(teacher, point, prepared)
    u, du_dt = exact_derivative(student, point, v, prepared)
    by_hand = (u - (v - (point.t - point.r)[:, None, None, None, None] * du_dt)).square().mean()
    assert loss.total.item() == pytest.approx(by_hand.item(), rel=1e-5)
    loss.total.backward()
    target = (v - (point.t - point.r)[:, None, None, None, None] * du_dt).detach()
    expected = torch.autograd.grad((u - target).square().mean(), list(student.parameters()))
    for parameter, gradient in zip(student.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
    assert all(p.grad is None for p in teacher.parameters())


def test_weights_make_samples_count_alike() -> None:
    student, _, shape = small_10()
    teacher = randomised(CFG)
    draws = draw(0, range(2), shape[1:], strata=2)

    def loss(power: float, rows: slice) -> Loss:
        stage = MeanFlowStage(
            MeanFlowStageConfig(RUN, "unused", weight_power=power), student, teacher
        )
        conditioning = Conditioning(*(each[rows] for each in encode(PROMPTS).tensors().values()))
        batch = Batch(torch.zeros(shape)[rows], conditioning)
        return stage.loss(batch, Draws(*(each[rows] for each in draws)), step=0)

    errors = [loss(0, slice(row, row + 1)).total.item() for row in (0, 1)]
    both = [(error + 1e-2) ** -0.5 * error for error in errors]
    weighted = loss(0.5, slice(2))
    assert weighted.total.item() == pytest.approx(sum(both) / 2, rel=1e-5)
    assert weighted.terms["loss"].item() == pytest.approx(sum(errors) / 2, rel=1e-5)
    assert errors[0] != pytest.approx(errors[1], rel=0.05)


def test_both_derivatives_train_alike(tmp_path: Path) -> None:
    teacher = saved(randomised(CFG), tmp_path / "dit.safetensors")
    losses = [
        run(
            MeanFlowStageConfig(RUN, teacher, derivative=derivative, difference_step=1e-4),
            tmp_path / derivative,
        )[1]
        for derivative in ("jvp", "finite-difference")
    ]
    for exact, coarse in zip(*losses, strict=True):
        assert exact["loss"] == pytest.approx(coarse["loss"], rel=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"restriction": 0.0}, "restriction must be above 0 and at most 1, got 0.0"),
        ({"weight_power": 2.0}, "weight_power must be from 0 to 1, got 2.0"),
        ({"derivative": "exact"}, "derivative must be jvp or finite-difference, got 'exact'"),
        *(
            (
                {"run": replace(RUN, **{name: value})},
                f"{name} {value} does not go with derivative jvp",
            )
            for name, value in (
                ("activation_checkpointing", True),
                ("compile", True),
                ("ops", "triton"),
                ("sequence_parallel", 2),
            )
        ),
    ],
)
def test_illegal_settings_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(MeanFlowStageConfig(RUN, "teacher"), **change)


def test_finite_differences_in_bf16_train_every_weight(tmp_path: Path) -> None:
    """Autocast kept casts made under no_grad, which pass no gradient (pytorch/pytorch#112583)."""
    begun = randomised(CFG)
    teacher = saved(begun, tmp_path / "dit.safetensors")
    in_bf16 = replace(RUN, bf16=True)
    config = MeanFlowStageConfig(in_bf16, teacher, derivative="finite-difference")
    path, _ = run(config, tmp_path / "run")
    trained = load_file(path)
    still = [n for n, w in begun.state_dict().items() if torch.equal(trained[n], w.bfloat16())]
    assert still == []
