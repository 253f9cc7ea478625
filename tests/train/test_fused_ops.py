"""Stages on the fused ops, in Triton's interpreter: the reference's losses and gradients."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from disca_rt.tiny.training_clips import unconditional
from disca_rt.train.build import build_stage
from disca_rt.train.data import Batch
from disca_rt.train.distributed import placed
from disca_rt.train.draws import Draws, draw
from disca_rt.train.flow_matching import BaseStageConfig
from train.small import ALONE, RUN, SMALL, STAGES, batch_and_draws, disturbed, stage_config

pytestmark = pytest.mark.timeout(600)


SHALLOW = replace(SMALL, double=1, single=1)


def one_frame() -> tuple[Batch, Draws]:
    batch, _ = batch_and_draws(1)
    batch = batch._replace(latents=batch.latents[:, :, :1, :8, :8])
    return batch, draw(0, range(1), batch.latents.shape[1:], strata=1)


def step(config: Any, compiler: str | None = None, **changes: Any) -> tuple[float, dict]:
    """Compute loss and gradients of a late step of `config`, its run changed."""
    config = replace(config, run=replace(config.run, **changes))
    stage = placed(lambda: build_stage(config, unconditional()), config.run, ALONE)
    disturbed(stage.trained)
    if compiler is not None:
        for block in stage.trained[stage.exported].blocks:
            block.compile(backend=compiler, fullgraph=True)
    loss = stage.loss(*one_frame(), step=10)
    loss.total.backward()
    return loss.total.item(), {
        name.replace("_checkpoint_wrapped_module.", ""): parameter.grad
        for name, parameter in stage.trained.named_parameters()
    }


def assert_alike(ours: tuple[float, dict], theirs: tuple[float, dict], bound: float) -> None:
    """Compare losses, and each gradient to its own size or a hundredth of the whole's."""
    assert ours[0] == pytest.approx(theirs[0], rel=bound)
    assert ours[1].keys() == theirs[1].keys()
    whole = torch.cat([each.flatten() for each in theirs[1].values()]).norm()
    for name, gradient in theirs[1].items():
        assert (ours[1][name] - gradient).norm() < bound * (gradient.norm() + 0.01 * whole), name


@pytest.mark.parametrize("name", STAGES)
def test_a_step_is_that_of_the_reference_ops(name: str, tmp_path: Path) -> None:
    config = stage_config(name, tmp_path, SHALLOW)
    if name == "predictor":
        config = replace(config, depth=1)
    if name == "harmonica":  # which weighs the samples of a batch together
        config = replace(config, run=replace(config.run, batch=1))
    bound = 1e-4 if name == "blockdance-ada" else 1e-5  # of differences between rewards
    assert_alike(step(config, ops="triton"), step(config), bound)


def test_checkpointed_and_compiled_steps_are_plain_ones(tmp_path: Path) -> None:
    config = stage_config("base", tmp_path, SHALLOW)  # the fewest forwards, of the same blocks
    plain = step(config, ops="triton")
    assert_alike(step(config, ops="triton", activation_checkpointing=True), plain, bound=1e-6)
    assert_alike(step(config, ops="triton", compiler="aot_eager"), plain, bound=1e-6)


def test_ops_are_refused_where_they_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"ops must be one of \[.*\], got 'cuda'"):
        replace(RUN, ops="cuda")
    fused = replace(RUN, ops="triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=r"ops 'triton' (need|run on) a GPU"):
        build_stage(BaseStageConfig(fused, SMALL), unconditional())
