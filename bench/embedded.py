"""Benchmarks of what DisCa saves on the embedded model: in a step, and from prompt to video."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from disca_rt.config import DiTConfig, predictor_config
from disca_rt.measure.harness import Comparison, Contender
from disca_rt.measure.steps import Steps, Subject
from disca_rt.pipeline.runtime import Runtime
from disca_rt.schedule import Preset, get_preset, preset
from disca_rt.tiny.clips import FRAMES, HEIGHT, WIDTH
from disca_rt.tiny.codec import PixelUnshuffleCodec
from disca_rt.tiny.config import GUIDANCE_SCALE
from disca_rt.tiny.runtime import encode_prompts, load_tiny, with_tiny_prompts
from disca_rt.work.flops import StepFlops, image_tokens, step_flops

PROMPT = "a red circle moving left and a blue square moving up on a black background"
TEXT_TOKENS = 16  # of PROMPT; the longest there is
BASE_WEIGHTS = Path(__file__).parents[1] / "ladder" / "base.safetensors"


@dataclass(frozen=True)
class VideoSize:
    """Size of a video in frames and pixels."""

    frames: int
    height: int
    width: int


TRAINED = VideoSize(FRAMES, HEIGHT, WIDTH)


def steps(size: VideoSize = TRAINED) -> Comparison:
    """Comparison of a full and a predicted step, from latents to latents as in the loop."""
    runtime = load_tiny()
    given = encode_prompts([PROMPT]), _latent_shape(size)
    run = Steps(Subject(runtime, *given, policy="disca", schedule=preset(2, 5.0, (0,))))
    flops = _flops(runtime.config, size, TEXT_TOKENS)
    contenders = [
        Contender("full step", run.full, flops.full),
        Contender("predicted step", run.predicted, flops.predicted, goal=0.15),
    ]
    return _comparison("predicted step", runtime, size, contenders, samples=100)


def samples_with_guidance(size: VideoSize = TRAINED) -> Comparison:
    """Comparison of samples with what an undistilled model needs: 50 steps of two passes each."""
    base, runtime = with_tiny_prompts(Runtime.load(BASE_WEIGHTS)), load_tiny()
    fifty = preset(50, 5.0)
    both_passes = [_flops(base.config, size, tokens) for tokens in (TEXT_TOKENS, 1)]
    baseline = Contender(
        "50 full steps x 2",
        partial(_generate, base, size, fifty, policy="full"),
        fifty.steps * sum(one_pass.full for one_pass in both_passes),
        "classifier-free guidance; its unconditional pass has one text token",
    )
    contenders = [baseline, _twenty_steps(runtime, size), _disca(runtime, size)]
    return _comparison("DisCa sample, base 50 x 2", runtime, size, contenders, samples=7)


def samples_without_guidance(size: VideoSize = TRAINED) -> Comparison:
    """Comparison with as many full steps: what the predictor alone saves."""
    runtime = load_tiny()
    contenders = [_twenty_steps(runtime, size), _disca(runtime, size)]
    return _comparison("DisCa sample, base 20", runtime, size, contenders, samples=15)


def _comparison(
    name: str, runtime: Runtime, size: VideoSize, contenders: Sequence[Contender], samples: int
) -> Comparison:
    return Comparison(name, _shape(runtime.config, size), "float32", contenders, samples)


def _twenty_steps(runtime: Runtime, size: VideoSize) -> Contender:
    return _sampling("20 full steps", runtime, size, preset(20, 5.0), "full")


def _disca(runtime: Runtime, size: VideoSize) -> Contender:
    published = get_preset("disca-n4")
    predicted = published.steps - published.full_steps
    name = f"DisCa: {published.full_steps} full, {predicted} predicted"
    return _sampling(name, runtime, size, published, "disca")


def _sampling(
    name: str, runtime: Runtime, size: VideoSize, schedule: Preset, policy: str
) -> Contender:
    step = _flops(runtime.config, size, TEXT_TOKENS)
    predicted = schedule.steps - schedule.full_steps
    flops = schedule.full_steps * step.full + predicted * step.predicted
    return Contender(name, partial(_generate, runtime, size, schedule, policy=policy), flops)


def _generate(runtime: Runtime, size: VideoSize, schedule: Preset, policy: str) -> None:
    runtime.generate(
        PROMPT, **asdict(size), schedule=schedule, policy=policy, guidance_scale=GUIDANCE_SCALE
    )


def _latent_shape(size: VideoSize) -> tuple[int, int, int, int]:
    return PixelUnshuffleCodec().latent_shape(size.frames, size.height, size.width)


def _flops(dit: DiTConfig, size: VideoSize, text_tokens: int) -> StepFlops:
    return step_flops(dit, predictor_config(dit), _latent_shape(size), text_tokens)


def _shape(dit: DiTConfig, size: VideoSize) -> dict[str, object]:
    latents = _latent_shape(size)
    return {
        "model": "embedded",
        "batch": 1,
        "latents": list(latents),
        "image tokens": image_tokens(dit, latents),
        "text tokens": TEXT_TOKENS,
        "hidden": dit.hidden,
        "heads": dit.heads,
        "blocks": f"{dit.double}+{dit.single}",
    }
