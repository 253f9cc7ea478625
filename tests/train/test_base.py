"""Training of the embedded model: what a step learns from, and that a killed run loses nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from disca_rt.models.build import build_dit
from disca_rt.models.dit import DiT, StepInputs
from disca_rt.tiny.config import TINY
from disca_rt.tiny.prompts import is_held_out
from disca_rt.train import base
from disca_rt.train.base import BaseConfig, draw_batch, initialise, train_base, training_loss
from disca_rt.train.grow import copy_into_deeper, spread
from disca_rt.weights.load import load_dit

SMALL = BaseConfig(
    model=replace(TINY, hidden=32, heads=2, rope=(4, 6, 6), double=1, single=3),
    growth=((0, 1), (3, 3)),
    steps=6,
    batch=2,
    warmup_steps=2,
    decay_steps=2,
    checkpoint_every=2,
    log_every=1,
)


def small_model(single: int = 1) -> DiT:
    model = build_dit(replace(SMALL.model, single=single), device="cpu").requires_grad_(True)
    initialise(model, seed=0)
    return model


@pytest.mark.parametrize("killed_at", [1, 2, 3, 5])  # before, at and after the model grows
def test_a_killed_run_resumes_as_if_nothing_had_happened(
    killed_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_base(SMALL, tmp_path / "whole")
    real = base.training_loss

    def killed(model, config, step):
        if step == killed_at:
            raise KeyboardInterrupt
        return real(model, config, step)

    monkeypatch.setattr(base, "training_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        train_base(SMALL, tmp_path / "killed")
    monkeypatch.setattr(base, "training_loss", real)
    train_base(SMALL, tmp_path / "killed")
    whole, resumed = (load_file(tmp_path / n / "dit.safetensors") for n in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / n / "loss.jsonl").open()]
        for n in ("whole", "killed")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == SMALL.steps


def test_a_run_can_start_from_weights(tmp_path: Path) -> None:
    first = replace(SMALL, model=replace(SMALL.model, single=1), growth=((0, 1),))
    start = train_base(first, tmp_path / "first")
    config = replace(SMALL, start=str(start), steps=1, warmup_steps=10**9, checkpoint_every=1)
    again = train_base(config, tmp_path / "again")
    weights = [load_file(path) for path in (start, again)]
    # After one step at a vanishing rate the weights are those it started from, in bf16.
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_resumed_with_other_settings_is_refused(tmp_path: Path) -> None:
    train_base(replace(SMALL, steps=2), tmp_path)
    with pytest.raises(ValueError, match="was trained with batch 2, not 4"):
        train_base(replace(SMALL, batch=4), tmp_path)


def test_the_weights_load_as_an_official_checkpoint(tmp_path: Path) -> None:
    path = train_base(SMALL, tmp_path)
    assert load_dit(path).config == SMALL.model


def test_a_fresh_model_predicts_zero_so_the_loss_is_the_variance_of_the_target() -> None:
    model = small_model()
    latents, conditioning = draw_batch(SMALL, torch.Generator().manual_seed(0))
    prepared = model.prepare(conditioning, latents.shape)
    velocity = model(latents, StepInputs(torch.full((2,), 500.0)), prepared)
    assert torch.equal(velocity, torch.zeros_like(velocity))
    # var(ε − x_0) = 1 + var(x_0); latents are scaled to a variance near 1.
    assert training_loss(model, SMALL, step=0).item() == pytest.approx(2.0, abs=0.7)


def test_training_learns() -> None:
    model = small_model()
    optimizers = base.make_optimizers(model, SMALL)
    losses = []
    for _ in range(30):  # the same batch and noise again and again
        loss = training_loss(model, SMALL, step=0)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_every_parameter_is_trained_once() -> None:
    model = small_model()
    trained = [
        parameter
        for optimizer in base.make_optimizers(model, SMALL)
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert len(trained) == len({id(p) for p in trained}) == len(list(model.parameters()))


def test_training_never_draws_a_held_out_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    real = base.render

    def spy(scenes, generator):
        drawn.extend(scenes)
        return real(scenes, generator)

    monkeypatch.setattr(base, "render", spy)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        draw_batch(replace(SMALL, batch=16), generator)
    assert len(drawn) == 320
    assert not any(is_held_out(scene) for scene in drawn)
    assert all(scene.background is not None for scene in drawn)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_base(replace(SMALL, steps=2), tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    monkeypatch.setattr(base, "training_loss", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(FloatingPointError, match="loss is nan at step 2"):
        train_base(SMALL, tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_deeper_model_starts_as_the_shallow_one() -> None:
    shallow, deep = small_model(single=2), small_model(single=5)
    generator = torch.Generator().manual_seed(3)
    for parameter in shallow.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    copy_into_deeper(shallow, deep)
    latents, conditioning = draw_batch(SMALL, generator)
    velocities = [
        model(
            latents, StepInputs(torch.full((2,), 300.0)), model.prepare(conditioning, latents.shape)
        )
        for model in (shallow, deep)
    ]
    assert torch.equal(*velocities)
    assert velocities[0].abs().max() > 0.1


def test_blocks_are_spread_evenly_and_never_lost() -> None:
    assert spread(4, 14) == [0, 3, 7, 10]
    assert spread(3, 3) == [0, 1, 2]
    with pytest.raises(ValueError, match="cannot grow from 4 single-stream blocks to 3"):
        spread(4, 3)


@pytest.mark.parametrize("growth", [((1, 3),), ((0, 1),), ((0, 4), (2, 3)), ((0, 1), (0, 3))])
def test_illegal_growth_is_refused(growth: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match="growth must"):
        replace(SMALL, growth=growth)
