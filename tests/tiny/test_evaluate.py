"""The evaluation loop: which clips it judges against which prompts, with a stand-in generator."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from disca_rt.cache.policy import Policy
from disca_rt.cache.rules.always import Always
from disca_rt.config import predictor_config
from disca_rt.pipeline.runtime import Runtime
from disca_rt.schedule import get_preset, preset
from disca_rt.tiny.clips import render
from disca_rt.tiny.config import TINY
from disca_rt.tiny.evaluate import NOISE_SEED, SIZE, JudgedClips, generate_and_judge, relative_l2
from disca_rt.tiny.prompts import held_out_prompts, parse
from disca_rt.tiny.runtime import SHIPPED, load_tiny, with_tiny_prompts
from golden_vectors import load_golden

PROMPTS = held_out_prompts(25, seed=0)


class Draughtsman:
    """Generates real clips: of the prompts it is asked for, or of their reverse."""

    def __init__(self, reverse: bool = False) -> None:
        self.reverse, self.seeds = reverse, []

    def resolved(self, request):
        return request.schedule, Policy(request.policy, Always())

    def generate(self, prompts, *, seed, **arguments):
        self.seeds.append(seed)
        scenes = [parse(prompt) for prompt in prompts]
        generator = torch.Generator().manual_seed(seed)
        video = render(scenes[::-1] if self.reverse else scenes, generator)
        return SimpleNamespace(video=video, latents=video)


def share_right(generated: JudgedClips) -> float:
    return sum(clip.correct for clip in generated.marks) / len(generated.marks)


def test_real_clips_are_all_right() -> None:
    generated = generate_and_judge(Draughtsman(), PROMPTS)
    assert [clip.prompt for clip in generated.marks] == PROMPTS
    assert share_right(generated) == 1
    assert min(clip.semantic for clip in generated.marks) == 1
    assert min(clip.quality for clip in generated.marks) > 0.9
    clip = generated.marks[0]
    assert clip.total == pytest.approx((clip.semantic + 4 * clip.quality) / 5)
    assert generated.video.shape == (25, 3, 5, 24, 32)


def test_clips_of_other_prompts_are_not() -> None:
    generated = generate_and_judge(Draughtsman(reverse=True), PROMPTS)
    assert share_right(generated) <= 0.2  # odd batches have a middle


def test_the_noise_of_a_prompt_does_not_depend_on_the_batch() -> None:
    draughtsman = Draughtsman()
    generate_and_judge(draughtsman, PROMPTS, batch=10)
    assert draughtsman.seeds == [NOISE_SEED, NOISE_SEED + 10, NOISE_SEED + 20]


def test_relative_l2_is_per_sample() -> None:
    reference = torch.ones(2, 3, 1, 1, 1)
    latents = torch.stack([reference[0], 3 * reference[0]])
    assert relative_l2(latents, reference) == [0, 2]


def test_the_shipped_model_is_the_embedded_one_and_fits_the_wheel() -> None:
    runtime = load_tiny()
    assert runtime.config == replace(TINY, guidance_embed=True, meanflow=True)
    assert runtime.predictor.config == predictor_config(runtime.config)
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 10e6


def test_the_shipped_model_shows_what_prompts_say() -> None:
    """The docs have its rate on 300 prompts; on these, another model would fail."""
    prompts, preset = held_out_prompts(8, seed=2), get_preset("disca-n4")
    generated = generate_and_judge(load_tiny(), prompts, preset, policy="disca", batch=8)
    assert share_right(generated) >= 0.75
    assert sum(clip.semantic for clip in generated.marks) / 8 >= 0.9


def test_prompts_change_what_is_generated() -> None:
    runtime = load_tiny()
    arguments = {**SIZE, "schedule": preset(2, 2.0), "policy": "full", "seed": 1}
    red, blue = (
        runtime.generate(f"a {c} square standing still", guidance_scale=4.0, **arguments).video
        for c in ("red", "blue")
    )
    assert (red - blue).abs().max() > 0.1


def test_another_model_gets_no_tiny_prompts() -> None:
    runtime = Runtime.load(load_golden("hyvideo10").dit)
    assert with_tiny_prompts(runtime).text_encoder is None
