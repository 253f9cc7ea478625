"""Benchmarks of what DisCa saves on the embedded model: in a step, and from prompt to video."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from disca_rt.measure.harness import Comparison, Contender
from disca_rt.measure.steps import Steps, Subject
from disca_rt.pipeline.runtime import Runtime
from disca_rt.schedule import Preset, get_preset, preset
from disca_rt.tiny.clips import FRAMES, HEIGHT, WIDTH
from disca_rt.tiny.codec import PixelUnshuffleCodec
from disca_rt.tiny.config import GUIDANCE_SCALE, TINY
from disca_rt.tiny.prompts import encode
from disca_rt.tiny.runtime import load_tiny, with_tiny_prompts
from disca_rt.work.flops import image_tokens

PROMPT = "a red circle moving left and a blue square moving up on a black background"
BASE_WEIGHTS = Path(__file__).parents[1] / "ladder" / "base.safetensors"


class VideoSize(NamedTuple):
    """Size of a video in frames and pixels."""

    frames: int
    height: int
    width: int


TRAINED = VideoSize(FRAMES, HEIGHT, WIDTH)


def steps(size: VideoSize = TRAINED) -> Comparison:
    """Comparison of a full and a predicted step, from latents to latents as in the loop."""
    subject = _subject(load_tiny(), size, "disca", preset(2, 5.0, (0,)))
    run = Steps(subject)
    full, predicted = (subject.flops_of([plan]) for plan in subject.plans)
    contenders = [
        Contender("full step", run.full, full),
        Contender("predicted step", run.predicted, predicted, goal=0.15),
    ]
    return _comparison("predicted step", size, contenders, samples=100)


def samples_with_guidance(size: VideoSize = TRAINED) -> Comparison:
    """Comparison of samples with what an undistilled model needs: 50 steps of two passes each."""
    base = with_tiny_prompts(Runtime.load(BASE_WEIGHTS))
    baseline = _sampling(
        "50 full steps x 2",
        _subject(base, size, "full", preset(50, 5.0)),
        size,
        "classifier-free guidance; its unconditional pass has one text token",
    )
    contenders = [baseline, *_distilled(size)]
    return _comparison("DisCa sample, base 50 x 2", size, contenders, samples=7)


def samples_without_guidance(size: VideoSize = TRAINED) -> Comparison:
    """Comparison with as many full steps: what the predictor alone saves."""
    return _comparison("DisCa sample, base 20", size, _distilled(size), samples=15)


def _distilled(size: VideoSize) -> list[Contender]:
    """Contenders of the distilled model: 20 steps, all full and by DisCa."""
    runtime, published = load_tiny(), get_preset("disca-n4")
    predicted = published.steps - published.full_steps
    name = f"DisCa: {published.full_steps} full, {predicted} predicted"
    return [
        _sampling("20 full steps", _subject(runtime, size, "full", preset(20, 5.0)), size),
        _sampling(name, _subject(runtime, size, "disca", published), size),
    ]


def _subject(runtime: Runtime, size: VideoSize, policy: str, schedule: Preset) -> Subject:
    negative = None if runtime.config.guidance_embed else encode([""])
    given = encode([PROMPT]), _latent_shape(size)
    return Subject(runtime, *given, policy, schedule, negative)


def _sampling(name: str, subject: Subject, size: VideoSize, note: str = "") -> Contender:
    """Contender from prompt to video."""
    run = partial(
        subject.runtime.generate,
        PROMPT,
        **size._asdict(),
        schedule=subject.schedule,
        policy=subject.policy,
        guidance_scale=GUIDANCE_SCALE,
    )
    return Contender(name, run, subject.flops, note)


def _latent_shape(size: VideoSize) -> tuple[int, int, int, int]:
    return PixelUnshuffleCodec().latent_shape(*size)


def _comparison(
    name: str, size: VideoSize, contenders: Sequence[Contender], samples: int
) -> Comparison:
    latents = _latent_shape(size)
    shape = {
        "model": "embedded",
        "batch": 1,
        "latents": list(latents),
        "image tokens": image_tokens(TINY, latents),
        "text tokens": encode([PROMPT]).tokens,
        "hidden": TINY.hidden,
        "heads": TINY.heads,
        "blocks": f"{TINY.double}+{TINY.single}",
    }
    return Comparison(name, shape, "float32", contenders, samples)
