"""The estimate of a step against PyTorch's counts of work and parameters, and a measured peak."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from disca_rt.attention.backends import BACKENDS
from disca_rt.config import get_model_config
from disca_rt.instruments.peak_memory import PeakMemory
from disca_rt.models.dit import DiT
from disca_rt.tiny.training_clips import TrainingClips, unconditional
from disca_rt.train.build import build_stage
from disca_rt.train.data import Batch, collate, make_reader, read_batch
from disca_rt.train.distributed import placed
from disca_rt.train.draws import draw
from disca_rt.train.dry_run import estimate
from disca_rt.train.presets import paper_predictor
from disca_rt.train.stage import Stage
from train.small import ALONE, CACHE, RUN, SMALL, STAGES, stage_config

LATENTS = 12, 5, 12, 16


def fixed_batch(size: int) -> Batch:
    """Samples whose prompts are equally long, so that nothing is padded."""
    reader = make_reader(TrainingClips(drop_word=0.0, pairs=0.0), 0)
    samples = [read_batch(reader, [position], SMALL) for position in range(60)]
    lengths = [int(each.conditioning.text_mask.sum()) for each in samples]
    chosen = [s for s, n in zip(samples, lengths, strict=True) if n == max(lengths)][:size]
    conditioning = collate([each.conditioning for each in chosen])
    return Batch(torch.cat([s.latents for s in chosen]), conditioning)


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
    monkeypatch.setitem(BACKENDS, "sdpa", BACKENDS["math"])
    config = replace(stage_config(name, tmp_path), run=replace(RUN, batch=2))
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


def test_the_13b_discriminator_is_whole_on_every_rank() -> None:
    dit, latents = get_model_config("hunyuan-video-meanflow"), (16, 33, 88, 88)
    config = paper_predictor("dit")
    needed = [estimate(config, dit, latents, 256, ranks).memory for ranks in (8, 64)]
    assert needed[0]["discriminator"] == needed[1]["discriminator"]
    assert needed[0]["discriminator"] == pytest.approx(4 * 4 * 30.67e6, rel=0.001)
    without = estimate(replace(config, adversarial=False), dit, latents, 256, 8).memory
    assert "discriminator" not in without
    # A block's input each, and four hidden states of what is real: S x C in bf16.
    assert needed[0]["activations"] - without["activations"] == 64 * 64_144 * 3072 * 2


WIDE = replace(SMALL, hidden=64, heads=4, double=2, single=2)
MEASURED = (
    ("cfg", {}),
    ("meanflow", {}),
    ("predictor", {}),
    ("predictor", {"adversarial": False}),
    *((name, {}) for name in CACHE),
)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(("name", "changes"), MEASURED)
def test_activations_are_what_a_step_holds_at_its_peak(
    name: str, changes: dict, checkpointed: bool, tmp_path: Path
) -> None:
    """Measured by estimated: 0.92 to 1.03 over these and another width, in fp32 on a CPU."""
    run = replace(RUN, batch=1, activation_checkpointing=checkpointed)
    config = replace(stage_config(name, tmp_path, WIDE, **changes), run=run)
    stage = placed(lambda: build_stage(config, unconditional()), run, ALONE)
    generator, latents = torch.Generator().manual_seed(0), (12, 5, 24, 32)
    batch = fixed_batch(1)._replace(latents=torch.randn(1, *latents, generator=generator))
    draws = draw(0, range(1), latents, strata=1)
    for parameter in stage.trained.parameters():  # gradients are counted for themselves
        parameter.grad = torch.zeros_like(parameter)
    with PeakMemory(torch.device("cpu")) as measured:
        stage.loss(batch, draws, step=10).total.backward()
    text = batch.conditioning.text_mask.shape[1]
    needed = estimate(stage.config, stage.dit_config, latents, text, ranks=1)
    assert 0.9 < measured.peak / needed.memory["activations"] < 1.06


def replace_batch(config, batch: int):
    return replace(config, run=replace(config.run, batch=batch))


def test_checkpointing_keeps_less_and_computes_more(tmp_path: Path) -> None:
    config = stage_config("base", tmp_path)
    kept = estimate(config, config.model, LATENTS, 10, 1)
    run = replace(RUN, activation_checkpointing=True)
    recomputed = estimate(replace(config, run=run), config.model, LATENTS, 10, 1)
    assert recomputed.memory["activations"] < kept.memory["activations"]
    assert recomputed.flops == kept.flops * 4 // 3
