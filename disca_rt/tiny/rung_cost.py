"""Cost of a rung: forwards, FLOPs, memory and seconds of one clip."""

import statistics
import time
from collections.abc import Sequence

from ..cache.calibration import Calibration
from ..cache.kept import kept_bytes
from ..cache.method import sketched
from ..cache.plan import Setting
from ..cache.policies import resolve
from ..config import DiTConfig
from ..instruments.peak_memory import PeakMemory
from ..pipeline.runtime import Runtime
from ..work.flops import sample_flops
from .codec import PixelUnshuffleCodec
from .evaluate import NOISE_SEED, SIZE, resolved
from .ladder import Rung
from .prompts import encode

PROMPT = "a small red circle moving left on a black background"
ROUNDS = 5  # of timing


def passes(config: DiTConfig) -> int:
    """Count the forwards per step: two under classifier-free guidance, one with it embedded."""
    return 1 if config.guidance_embed else 2


def rung_flops(
    rung: Rung, config: DiTConfig, text_tokens: int, calibration: Calibration | None = None
) -> int:
    """Count the FLOPs of one clip whose prompt has `text_tokens`; the empty prompt has one.

    The rung's policy takes options that are left out from `calibration`.
    """
    shape = PixelUnshuffleCodec().latent_shape(**SIZE)
    parts = sketched(config)._replace(calibration=calibration)
    schedule, policy = resolve(rung.schedule, rung.policy, parts)
    text = (text_tokens, 1)[: passes(config)]
    plans = policy.known_plans(Setting(tuple(schedule), len(text), len(policy.slots)))
    return sample_flops(policy, plans, config, shape, text)


def memory(rung: Rung, runtime: Runtime) -> dict[str, int]:
    """Measure the peak bytes of sampling one clip beyond the weights, and count the cache's."""
    peak = PeakMemory(runtime.dit.device)
    with peak:
        _one_clip(rung, runtime)
    latents = 1, *PixelUnshuffleCodec().latent_shape(**SIZE)
    prepared = runtime.dit.prepare(encode([PROMPT]), latents)
    _, policy = resolved(runtime, rung.schedule, rung.policy, rung.guidance_scale)
    shape = runtime.denoiser.shape(latents, [prepared] * passes(runtime.config), policy)
    return {"peak_bytes": peak.peak, "cache_bytes": kept_bytes(policy, shape).device}


def seconds_per_clip(
    rungs: Sequence[Rung], runtimes: Sequence[Runtime], rounds: int = ROUNDS
) -> list[float]:
    """Time each rung: the median of `rounds` clips, one at a time, rungs taking turns."""
    turns = [
        [_seconds(rung, runtime) for rung, runtime in zip(rungs, runtimes, strict=True)]
        for _ in range(rounds)
    ]
    return [statistics.median(of_rung) for of_rung in zip(*turns, strict=True)]


def _seconds(rung: Rung, runtime: Runtime) -> float:
    started = time.perf_counter()
    _one_clip(rung, runtime)  # its video is on the CPU, so a GPU is done
    return time.perf_counter() - started


def _one_clip(rung: Rung, runtime: Runtime) -> None:
    runtime.generate(
        PROMPT,
        **SIZE,
        schedule=rung.schedule,
        policy=rung.policy,
        guidance_scale=rung.guidance_scale,
        seed=NOISE_SEED,
    )
