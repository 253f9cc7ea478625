"""HunyuanVideo 1.5 through the loss of every stage that a predictor needs."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from disca_rt.conditioning import Conditioning
from disca_rt.config import DiTConfig
from disca_rt.train.build import build_stage
from disca_rt.train.cfg_distill import CFGStageConfig
from disca_rt.train.data import Batch, collate
from disca_rt.train.draws import draw
from disca_rt.train.meanflow import Derivative, MeanFlowStageConfig
from disca_rt.train.predictor import PredictorStageConfig
from train.small import RUN, SMALL_15, randomised, saved

SHAPE = 4, 2, 4, 4
DEPTH = {"student": SMALL_15.double, "predictor": 2}  # blocks


def some_conditioning(seed: int) -> Conditioning:
    g = torch.Generator().manual_seed(seed)
    return Conditioning(
        torch.randn(1, 3, 24, generator=g),
        torch.tensor([[1, 1, seed % 2]]),
        byt5_text_states=torch.randn(1, 2, 20, generator=g),
        byt5_text_mask=torch.ones(1, 2, dtype=torch.int64),
        vision_states=torch.randn(1, 2, 12, generator=g),
        cond_latents=torch.randn(1, 5, *SHAPE[1:], generator=g),
    )


def dit(folder: Path, **changes: Any) -> str:
    config: DiTConfig = replace(SMALL_15, **changes)
    return saved(randomised(config), folder / "dit.safetensors")


def meanflow(derivative: Derivative) -> Callable[[Path], MeanFlowStageConfig]:
    return lambda folder: MeanFlowStageConfig(RUN, dit(folder), derivative=derivative)


STAGES: dict[str, Callable[[Path], Any]] = {
    "cfg": lambda folder: CFGStageConfig(RUN, dit(folder, guidance_embed=False)),
    "jvp": meanflow("jvp"),
    "finite-difference": meanflow("finite-difference"),
    "predictor": lambda folder: PredictorStageConfig(
        RUN, dit(folder, meanflow=True), mse_steps=1, discriminator_width=8
    ),
}


def unseen(names: Iterable[str]) -> set[str]:
    """Parameters whose values make no difference.

    A bias of all keys is nothing to a softmax, and nobody reads what the last block makes of text.
    """
    last = tuple(
        f"{module}.double_blocks.{depth - 1}.txt_{part}"
        for module, depth in DEPTH.items()
        for part in ("attn_q", "attn_proj", "mlp")
    )
    return {name for name in names if name.startswith(last) or name.endswith("attn_k.bias")}


@pytest.mark.parametrize("name", STAGES)
def test_a_loss_is_finite_and_reaches_everything_that_is_trained(name: str, tmp_path: Path) -> None:
    stage = build_stage(STAGES[name](tmp_path), some_conditioning(9))
    stage.trained.requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for each in stage.trained.parameters():  # nothing hides behind a zero gate
            each.add_(0.05 * torch.randn(each.shape, generator=generator))
    g = torch.Generator().manual_seed(1)
    conditioning = collate([some_conditioning(seed) for seed in (0, 1)])
    batch = Batch(torch.randn(2, *SHAPE, generator=g), conditioning, torch.arange(2))
    loss = stage.loss(batch, draw(0, range(2), SHAPE, strata=2), step=10)
    assert torch.isfinite(torch.stack(list(loss.terms.values()))).all()
    loss.total.backward()
    gradients = {n: p.grad for n, p in stage.trained.named_parameters()}
    assert all(g is not None and torch.isfinite(g).all() for g in gradients.values())
    missing = {n for n, g in gradients.items() if not g.any()}
    assert missing <= unseen(gradients)
    assert all(p.grad is None for p in stage.frozen.parameters())
