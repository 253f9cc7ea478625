"""The estimate of a step against PyTorch's own counts of work and of parameters."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from disca_rt import attention
from disca_rt.config import get_model_config
from disca_rt.models.dit import DiT
from disca_rt.tiny.training_clips import TrainingClips, unconditional
from disca_rt.train.build import build_stage
from disca_rt.train.data import Batch, collate, make_reader, read_batch
from disca_rt.train.draws import draw
from disca_rt.train.dry_run import estimate
from disca_rt.train.presets import paper_predictor
from disca_rt.train.stage import Stage
from train.small import RUN, STAGES

LATENTS = 12, 5, 12, 16


def fixed_batch(size: int) -> Batch:
    """Samples whose prompts are equally long, so that nothing is padded."""
    reader = make_reader(TrainingClips(drop_word=0.0, pairs=0.0), 0)
    samples = [read_batch(reader, [position]) for position in range(60)]
    lengths = [int(each.conditioning.text_mask.sum()) for each in samples]
    chosen = [s for s, n in zip(samples, lengths, strict=True) if n == max(lengths)][:size]
    conditioning = collate([each.conditioning for each in chosen])
    return Batch(torch.cat([s.latents for s in chosen]), conditioning, torch.arange(size))


def counted(stage: Stage, batch: Batch) -> int:
    stage.trained.requires_grad_(True)
    draws = draw(0, range(len(batch.latents)), LATENTS, strata=len(batch.latents))
    with FlopCounterMode(display=False) as counter:
        stage.loss(batch, draws._replace(drop=torch.ones(len(batch.latents))), 10).total.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", STAGES)
def test_flops_are_what_pytorch_counts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # PyTorch's counter does not know the fused CPU kernel.
    monkeypatch.setitem(attention.BACKENDS, "sdpa", attention.BACKENDS["math"])
    config = replace(STAGES[name](tmp_path), run=replace(RUN, batch=2))
    if name == "predictor":  # the discriminator is not counted: two per mille of a step at 13B
        config = replace(config, discriminator_width=1)
    stage = build_stage(config, unconditional())
    batch = fixed_batch(2)
    text = int(batch.conditioning.text_mask[0].sum())
    dit = next(m for m in [*stage.trained.values(), *stage.frozen.values()] if isinstance(m, DiT))
    expected = counted(stage, batch)
    ours = estimate(config, dit.config, LATENTS, text, ranks=1).flops
    # Counted too high: gradients of inputs that need none.
    assert ours == pytest.approx(expected, rel=0.12)


def test_weights_of_the_13b_predictor_stage() -> None:
    dit = get_model_config("hunyuan-video-meanflow")
    needed = estimate(paper_predictor("dit"), dit, (16, 33, 88, 88), 256, ranks=8)
    assert needed.tokens == 64_144
    assert needed.memory["frozen weights"] == pytest.approx(12.83e9 * 2 / 8, rel=0.01)
    assert needed.memory["trained weights"] == pytest.approx(311.5e6 * 4 / 8, rel=0.01)
    assert needed.memory["optimizer"] == 2 * needed.memory["gradients"]
    alone = estimate(replace_batch(paper_predictor("dit"), 1), dit, (16, 33, 88, 88), 256, ranks=1)
    assert alone.memory["gathered blocks"] == 0
    # Three full forwards, one with a backward through it and recomputation, and the predictor's.
    assert alone.flops == pytest.approx((3 + 3) * 3.92e15 + 4 * 135e12, rel=0.02)


def replace_batch(config, batch: int):
    return replace(config, run=replace(config.run, batch=batch))


def test_checkpointing_keeps_less_and_computes_more(tmp_path: Path) -> None:
    config = STAGES["base"](tmp_path)
    kept = estimate(config, config.model, LATENTS, 10, 1)
    run = replace(RUN, activation_checkpointing=True)
    recomputed = estimate(replace(config, run=run), config.model, LATENTS, 10, 1)
    assert recomputed.memory["activations"] < kept.memory["activations"]
    assert recomputed.flops == kept.flops * 4 // 3
