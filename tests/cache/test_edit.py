"""Edits: only masked rows run between full steps, and the rest follows the original."""

from collections.abc import Sequence

import pytest
import torch

from cache_draws import CONFIG, CPU, OPS, Draw, models
from disca_rt.cache.method import Parts
from disca_rt.cache.plan import Setting
from disca_rt.cache.policies import build_policy
from disca_rt.cache.token_mask import TokenMask
from disca_rt.config import MODELS
from disca_rt.graphs.runner import GraphRunner
from disca_rt.instruments.stopwatch import Stopwatch
from disca_rt.sampling.guidance import Guidance
from disca_rt.schedule import Schedule, shifted
from disca_rt.work.flops import PassFlops
from drawn_edits import MASK, edit_of, edited
from golden_vectors import relative_error
from mixed_attention import Mixed, velocity_of
from recorded import record

FULL = torch.ones_like(MASK)


def draw_of(
    schedule: Schedule | None = None, guided: bool = False, seed: int = 3, begins: bool = False
) -> Draw:
    return Draw(None, (), None, schedule or shifted(7, 3.0), guided, 2, seed, begins)


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("guided", [False, True])
def test_an_edit_is_a_written_out_loop(guided: bool, begins: bool) -> None:
    """All rows run there, the others' with keys that nobody reads; the last two steps are full."""
    draw = draw_of(shifted(8, 3.0), guided, begins=begins)
    ours = edited(models(), draw, "edit:fresh_threshold=3,tailing_step=1")
    edit = edit_of(draw)
    attentions = [Mixed() for _ in draw.conditions]
    denoisers = [models(attention=each).denoiser for each in attentions]
    fresh = MASK > 0
    fresh[0] |= begins  # the clean frame's rows
    rows = torch.cat([fresh.flatten(), torch.ones(3, dtype=torch.bool)])
    latents = draw.latents
    for step in draw.schedule:
        for attention in attentions:
            attention.calls = 0
            attention.mask = None if step.index in (0, 3, 6, 7) else rows
        velocity = velocity_of(denoisers, draw, latents, step)
        latents = latents + velocity * (step.sigma_next - step.sigma)
        if begins:
            latents[:, :, :1] = draw.first_frame
        there = (1 - step.sigma_next) * edit.original + step.sigma_next * edit.noise
        latents = torch.where(edit.cells, latents, there)
    assert relative_error(ours, latents) <= 1e-4
    assert relative_error(ours, edited(models(), draw, "full")) > 1e-3


@pytest.mark.parametrize(
    "text", ["edit", "edit:fresh_threshold=2", "full", "teacache", "taylor:interval=3"]
)
def test_the_rest_is_the_original_bit_for_bit(text: str) -> None:
    draw = draw_of()
    edit, ours = edit_of(draw), edited(models(), draw, text)
    kept = ~edit.cells.expand_as(ours)
    assert torch.equal(ours[kept], edit.original[kept])
    assert not torch.isclose(ours[~kept], edit.original[~kept]).any()


SIGMAS = shifted(5, 3.0), Schedule((0.7, 0.4, 0.1))


@pytest.mark.parametrize("schedule", SIGMAS, ids=["noise", "half-way"])
def test_a_mask_of_everything_makes_a_video_anew_from_that_start(schedule: Schedule) -> None:
    """Below a noise level of 1 the start is the original, noised so far."""
    draw, built = draw_of(schedule), models()
    edit, sigma = edit_of(draw), schedule.sigmas[0]
    with torch.no_grad():
        anew = built.denoiser.denoise(
            (1 - sigma) * edit.original + sigma * draw.latents,
            draw.conditions,
            schedule=schedule,
            policy=build_policy("full", Parts(CONFIG, OPS)),
            guidance=Guidance(),
            stopwatch=Stopwatch(CPU),
        )
    for text in ("edit", "full"):
        assert relative_error(edited(built, draw, text, FULL), anew) <= 1e-6


def test_another_mask_on_the_same_models_is_as_if_fresh() -> None:
    built, draw = models(), draw_of()
    for mask in (MASK, MASK.flip(0), FULL, MASK):
        assert torch.equal(edited(built, draw, "edit", mask), edited(models(), draw, "edit", mask))


@pytest.mark.parametrize("begins", [False, True])
def test_captured_edits_are_eager_ones(begins: bool) -> None:
    eager = models()
    by_step, whole = (models(graphs=GraphRunner(CPU, record)) for _ in range(2))
    for seed in range(3):  # other originals, the same captures
        draw = draw_of(guided=True, seed=seed, begins=begins)
        latents = edited(eager, draw, "edit:fresh_threshold=3")
        for each, watched in ((by_step, True), (whole, False)):
            assert torch.equal(
                edited(each, draw, "edit:fresh_threshold=3", watched=watched), latents
            )
    assert by_step.denoiser.graphs.captures > 0


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("text", ["edit", "edit:fresh_threshold=1", "edit:tailing_step=9"])
def test_one_step_and_two(text: str, steps: int) -> None:
    draw = draw_of(shifted(steps, 3.0))
    ours = edited(models(), draw, text)
    is_partial = steps == 2 and text == "edit"
    assert torch.equal(ours, edited(models(), draw, "full")) != is_partial


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("edit", [0, 5, 10, 15]),
        ("edit:fresh_threshold=7,first_enhance=3", [0, 1, 2, 9, 16]),
        ("edit:fresh_threshold=20,tailing_step=2", [0, 18, 19]),
    ],
)
def test_steps_cost_the_rows_of_the_mask(text: str, full: Sequence[int]) -> None:
    dit, chosen = MODELS["hunyuan-video-meanflow"], torch.zeros(33, 44, 44)
    chosen[:, 10:21, 10:21] = 1
    policy = build_policy(text, Parts(dit, edit_mask=TokenMask.of(chosen)))
    plans = policy.known_plans(Setting(tuple(shifted(20, 5.0)), 1, 1))
    labels = ["full" if step in full else "edit" for step in range(20)]
    assert [plan.label for plan in plans] == labels
    forward = PassFlops(dit, (16, 33, 88, 88), 256)
    every, some = (forward.planned(policy, plan, 0) for plan in plans[:4:3])
    share = (33 * 121 + 256) / (63_888 + 256)
    assert some / every == pytest.approx(share, rel=0.02)  # embed and head are whole


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("edit:tailing_step=-1", "tailing_step must be a whole number at least 0, got -1"),
        ("edit:fresh_threshold=0", "fresh_threshold must be a whole number at least 1, got 0"),
        ("edit:edit_mask=3", "policy edit has no option 'edit_mask'"),
        ("edit:state=fp8", "state must be device, for attention reads its keys"),
    ],
)
def test_wrong_options(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build_policy(text, Parts(CONFIG, OPS, edit_mask=TokenMask.of(MASK)))


def test_a_policy_of_edits_without_one_is_refused() -> None:
    with pytest.raises(ValueError, match="policy edit goes with a video to edit and a mask"):
        build_policy("edit", Parts(CONFIG, OPS))
