"""What each published model is sampled with, told from names, tensors and configurations."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from disca_rt.config import MODELS, DiTConfig
from disca_rt.folders.settings import Evidence, settle
from disca_rt.schedule import PRESETS, shifted

TEN, FIFTEEN = "hunyuan-video-1.0", "hunyuan-video-1.5"
CFG, MEANFLOW = MODELS["hunyuan-video-cfgdistill"], MODELS["hunyuan-video-meanflow"]
NEW, NEW_MEANFLOW = MODELS["hunyuan-video-1.5"], MODELS["hunyuan-video-1.5-meanflow"]
SKYREELS = replace(CFG, embed_channels=32)
LOW, HIGH = (121, 480, 848), (121, 720, 1280)


def seen(family: str, config: DiTConfig, name: str = "", **others: Any) -> Evidence:
    return Evidence(family, others.pop("task", "t2v"), config, names=(name,), **others)


@pytest.mark.parametrize(
    ("evidence", "variant", "steps", "shift", "embedded", "mixed", "size"),
    [
        (seen(TEN, CFG), "t2v", 50, 7, 6, None, (129, 720, 1280)),
        (seen(TEN, MODELS["hunyuan-video"]), "t2v", 50, 7, None, 6, (129, 720, 1280)),
        (seen(TEN, MEANFLOW), "meanflow", 20, 5, 6, None, (129, 704, 704)),
        (seen(TEN, CFG, "FastHunyuan"), "fast", 6, 17, 6, None, (129, 720, 1280)),
        (seen(TEN, CFG, "hunyuan_video_FastVideo_720_fp8"), "fast", 6, 17, 6, None, None),
        (seen(TEN, CFG, "SkyReels-V1-Hunyuan-T2V"), "skyreels_t2v", 30, 7, 1, 6, (97, 544, 960)),
        (seen(TEN, SKYREELS, task="i2v"), "skyreels_i2v", 30, 7, 1, 6, (97, 544, 960)),
        (seen(TEN, CFG, task="i2v"), "i2v", 50, 7, 6, None, None),
        (seen(TEN, MODELS["hunyuan-video"], task="i2v"), "i2v", 50, 7, None, None, None),
        (seen(FIFTEEN, NEW, "480p_t2v"), "480p_t2v", 50, 5, None, 6, LOW),
        (seen(FIFTEEN, NEW, "480p_i2v"), "480p_i2v", 50, 5, None, 6, LOW),
        (seen(FIFTEEN, NEW, "720p_t2v"), "720p_t2v", 50, 9, None, 6, HIGH),
        (seen(FIFTEEN, NEW, "720p_i2v"), "720p_i2v", 50, 7, None, 6, HIGH),
        (seen(FIFTEEN, NEW, "720p_t2v_distilled"), "720p_t2v_distilled", 50, 9, None, None, HIGH),
        (
            seen(FIFTEEN, NEW, "720p_i2v_distilled_sparse"),
            *("720p_i2v_distilled_sparse", 50, 7, None, None, HIGH),
        ),
        (
            seen(FIFTEEN, NEW, "hunyuanvideo1.5_480p_i2v_cfg_distilled_fp16"),
            *("480p_i2v_distilled", 50, 5, None, None, LOW),
        ),
        (
            seen(FIFTEEN, NEW_MEANFLOW, "480p_i2v_step_distilled"),
            *("480p_i2v_step_distilled", 12, 7, None, None, LOW),
        ),
        (seen(FIFTEEN, NEW_MEANFLOW), "480p_i2v_step_distilled", 12, 7, None, None, LOW),
        (
            seen(FIFTEEN, NEW, "hy1.5_t2v_480p_lightx2v_4step"),
            *("480p_t2v_4step", 4, 5, None, None, LOW),
        ),
        (seen(FIFTEEN, NEW, sidecar={"target_size": 960}), "720p_t2v", 50, 9, None, 6, HIGH),
        (
            seen(FIFTEEN, NEW, task="i2v", sidecar={"ideal_resolution": "720p"}),
            *("720p_i2v", 50, 7, None, 6, HIGH),
        ),
        (
            seen(FIFTEEN, NEW, guider={"guidance_scale": 1.0}),
            *("480p_t2v_distilled", 50, 5, None, None, LOW),
        ),
    ],
)
def test_published_models(
    evidence: Evidence,
    variant: str,
    steps: int,
    shift: float,
    embedded: float | None,
    mixed: float | None,
    size: tuple[int, int, int] | None,
) -> None:
    settings = settle(evidence)
    scales = settings.embedded_scale, settings.classifier_free_scale
    assert (settings.variant, settings.steps, settings.shift) == (variant, steps, shift)
    assert scales == (embedded, mixed)
    assert size in (None, settings.size)
    assert settings.schedule().schedule == shifted(steps, shift)


def test_tensors_overrule_a_name() -> None:
    """A file called step-distilled that is no MeanFlow model, and the other way round."""
    assert settle(seen(FIFTEEN, NEW, "480p_i2v_step_distilled")).variant == "480p_t2v"
    assert settle(seen(FIFTEEN, NEW_MEANFLOW, "480p_t2v")).variant == "480p_i2v_step_distilled"


def test_the_four_steps_of_lightx2v() -> None:
    """Its list 1000, 750, 500, 250 is shifted by 5 before it is sampled with."""
    levels = settle(seen(FIFTEEN, NEW, "480p_t2v_4step")).schedule().schedule
    positions = torch.tensor([1000, 750, 500, 250]) / 1000
    expected = 5 * positions / (1 + 4 * positions)
    assert torch.allclose(torch.tensor(levels.sigmas[:-1]), expected)


def test_the_folder_overrules_the_table() -> None:
    scheduler, guider = {"shift": 3.0}, {"guidance_scale": 4.5}
    settings = settle(seen(FIFTEEN, NEW, "480p_t2v", scheduler=scheduler, guider=guider))
    assert (settings.shift, settings.classifier_free_scale) == (3.0, 4.5)
    assert settings.reasons["shift"] == "scheduler/scheduler_config.json"
    assert settings.reasons["classifier_free_scale"] == "guider/guider_config.json"
    assert settings.reasons["steps"] == "named 480p_t2v"


@pytest.mark.parametrize(
    ("family", "config", "preset"),
    [(TEN, MEANFLOW, "disca-n4"), (FIFTEEN, NEW_MEANFLOW, "disca-1.5")],
)
def test_disca(family: str, config: DiTConfig, preset: str) -> None:
    scheduler = {"shift": 3.0}
    settings = settle(seen(family, config, scheduler=scheduler, has_predictor=True))
    assert settings.preset == preset
    assert settings.schedule() == PRESETS[preset]
    assert (settings.steps, settings.shift) == (PRESETS[preset].steps, PRESETS[preset].shift)
    assert preset in settings.reasons["steps"]


def test_a_variant_may_be_named() -> None:
    assert settle(seen(TEN, CFG, variant="fast")).steps == 6
    with pytest.raises(ValueError, match=r"variant must be one of t2v, i2v, .* for HunyuanVideo 1"):
        settle(seen(TEN, CFG, variant="quick"))


def test_other_sizes_of_small_models() -> None:
    settings = settle(seen(FIFTEEN, NEW, sidecar={"target_size": 64}))
    assert (settings.size, settings.bucket) == ((121, 48, 80), 64), "as diffusers: 16:9"


def test_what_a_guider_asks_for_and_does_not_get_is_said() -> None:
    asked = {"_class_name": "ClassifierFreeGuidance", "guidance_scale": 4.0, "start": 0.0}
    plain = settle(seen(FIFTEEN, NEW, "480p_t2v", guider={**asked, "_diffusers_version": "0.40"}))
    assert (plain.classifier_free_scale, plain.note) == (4.0, "")
    off = settle(seen(FIFTEEN, NEW, "480p_t2v", guider={**asked, "enabled": False}))
    assert (off.classifier_free_scale, off.note) == (None, "")
    told = settle(seen(FIFTEEN, NEW, "480p_t2v", guider={**asked, "start": 0.2, "stop": 0.8}))
    assert told.note.endswith("has start 0.2, stop 0.8, which is not followed")
