"""`Runtime`: load once, sample many times, embed it in another program.

A runtime owns its models and the buffers its cache policies write into; two of them in one process
share nothing. It takes a conditioning (or, where it has a text encoder, a prompt) and gives latents
(or, where it has a codec, video).
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..attention.local import LocalAttention
from ..attention.protocol import Attention
from ..cache.policies import Parts, resolve
from ..cache.policy import Policy
from ..conditioning import Conditioning
from ..config import DiTConfig
from ..graphs.runner import GraphRunner
from ..instruments.stopwatch import StageTime, Stopwatch
from ..kernels.ops import Ops, get_ops
from ..models.dit import DiT
from ..models.predictor import Predictor
from ..sampling.denoiser import MAX_STATES, Denoiser, current_device
from ..sampling.engine import StepEvent
from ..sampling.guidance import DEFAULT_GUIDANCE, Guidance
from ..schedule import Preset, Schedule
from ..weights.load import load_dit, load_predictor


class Codec(Protocol):
    """Turns latents into video, and says which sizes there are."""

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, T, H, W) of the latents; ValueError names an illegal size."""

    def video_size(self, t: int, h: int, w: int) -> tuple[int, int, int]:
        """(frames, height, width) of latents (T, H, W)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents `[B, C, T, H, W]` -> video `[B, 3, T', H', W']` in [0, 1]."""


class TextEncoder(Protocol):
    """Turns prompts into a conditioning; "" is the unconditional prompt."""

    def __call__(self, prompts: Sequence[str]) -> Conditioning: ...


@dataclass(frozen=True)
class Sample:
    """`latents [B, C, T, H, W]` fp32; `video [B, 3, T', H', W']` in [0, 1] or None without a codec.

    `times` says where the time went: conditioning, full steps, predicted steps, decode.
    """

    latents: Tensor
    video: Tensor | None
    times: dict[str, StageTime]


class Runtime:
    """`dit` and `predictor` share device and dtype; policy "disca" needs a predictor.

    With `graphs` steps, and whole trajectories where nobody looks in between, are captured at their
    second run and then replayed; where ranks share a sample, steps between their exchanges. A
    capture writes into the policy's state, which is of one policy, batch, size and text length:
    those of the last `max_states` of them stay, each with its captures. A state takes the policy's
    `cache_bytes` in each pass; DisCa's at 704x704x129 with the 13B model in bf16 is 394 MB. Without
    `graphs` only the last one stays.
    """

    def __init__(
        self,
        dit: DiT,
        predictor: Predictor | None = None,
        *,
        codec: Codec | None = None,
        text_encoder: TextEncoder | None = None,
        graphs: GraphRunner | None = None,
        max_states: int = MAX_STATES,
    ) -> None:
        differences = predictor.config.differences(dit.config) if predictor is not None else []
        if differences:
            raise ValueError(f"predictor does not fit the DiT: {'; '.join(differences)}")
        if predictor is not None and _placement(predictor) != _placement(dit):
            raise ValueError(
                f"predictor must be where and as the DiT is, {_placement(dit)}, "
                f"got {_placement(predictor)}"
            )
        self.dit, self.predictor = dit, predictor
        self.codec, self.text_encoder = codec, text_encoder
        self.graphs = graphs
        self.denoiser = Denoiser(dit, graphs, max_states)
        self._busy = threading.Lock()

    @classmethod
    def load(
        cls,
        dit: str | Path,
        predictor: str | Path | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        ops: str | Ops = "reference",
        attention: str | Attention = "auto",
        graphs: GraphRunner | None = None,
        fp8_weights: bool = False,
        max_states: int = MAX_STATES,
    ) -> "Runtime":
        """From checkpoint files, folders or Hub references; `dtype` None keeps the DiT's own.

        With `fp8_weights` the linears of the DiT's blocks stay in FP8 in memory and are decoded at
        each use: weights halved, arithmetic in `dtype` as before, no faster.
        Several ranks share a sample with an `attention` that trades its tokens
        (`parallel.attention`); all of them then call `sample` alike.
        """
        if isinstance(attention, str):
            attention = LocalAttention(attention)
        if isinstance(ops, str):
            ops = get_ops(ops, device)
        built = {"ops": ops, "attention": attention, "device": device}
        loaded = load_dit(dit, dtype=dtype, fp8_weights=fp8_weights, **built)
        if predictor is not None:
            predictor = load_predictor(predictor, loaded.config, dtype=loaded.dtype, **built)
        return cls(loaded, predictor, graphs=graphs, max_states=max_states)

    @property
    def config(self) -> DiTConfig:
        return self.dit.config

    @property
    def parts(self) -> Parts:
        """The parts that policies are made of."""
        return Parts(self.config, self.dit.ops, self.predictor)

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        frames: int,
        height: int,
        width: int,
        negative_prompt: str = "",
        guidance_scale: float | None = None,
        **sample_arguments: Any,
    ) -> Sample:
        """Video from prompts; needs a text encoder and a codec.

        `guidance_scale` is embedded where the model takes it, else it is the scale of
        classifier-free guidance against `negative_prompt`; None: no guidance (embedded: 6.0). The
        rest are arguments of `sample`.
        """
        inputs = self.prompt_inputs(
            [prompts] if isinstance(prompts, str) else list(prompts),
            frames=frames,
            height=height,
            width=width,
            negative_prompt=negative_prompt,
            guidance_scale=guidance_scale,
        )
        return self.sample(**inputs, **sample_arguments)

    def prompt_inputs(
        self,
        prompts: Sequence[str],
        *,
        frames: int,
        height: int,
        width: int,
        negative_prompt: str,
        guidance_scale: float | None,
    ) -> dict[str, Any]:
        """The arguments of `sample` that prompts determine; nothing is run but the encoder."""
        if self.text_encoder is None or self.codec is None:
            raise ValueError(
                f"prompts need the text encoders of {self.config.family}, which this runtime does "
                "not have; give a saved conditioning instead"
            )
        is_cfg = guidance_scale is not None and not self.config.guidance_embed
        if negative_prompt and not is_cfg:
            how = "embeds its guidance" if self.config.guidance_embed else "runs without guidance"
            raise ValueError(f"this model {how}; leave the negative prompt out")
        negative = self.text_encoder([negative_prompt] * len(prompts)) if is_cfg else None
        return {
            "conditioning": self.text_encoder(prompts),
            "negative": negative,
            "guidance_scale": guidance_scale,
            "latent_shape": self.codec.latent_shape(frames, height, width),
        }

    def sample(
        self,
        conditioning: Conditioning,
        *,
        schedule: Schedule | Preset,
        policy: str | Policy,
        latents: Tensor | None = None,
        latent_shape: tuple[int, int, int, int] | None = None,
        negative: Conditioning | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        on_step: Callable[[StepEvent], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Sample:
        """One sample per row of `conditioning`, deterministic in `seed`.

        Start from `latents [B, C, T, H, W]` (noise), or from noise drawn for `latent_shape`
        (C, T, H, W): row i from `seed + i`, on the CPU, so that neither the batch nor the device
        changes it. `negative` switches classifier-free guidance on. `on_step` is called after each
        step; `cancel`, once set, ends the sample with `Cancelled` before the next one.
        """
        guidance = self._guidance(guidance_scale, negative)
        latents = self._initial_latents(latents, latent_shape, conditioning.batch, seed)
        schedule, chosen = resolve(schedule, policy, self.parts)
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("this Runtime is sampling; make a second one for another thread")
        try:
            stopwatch = Stopwatch(self.dit.device)
            with torch.no_grad(), current_device(self.dit.device):
                latents = self.denoiser.denoise(
                    latents,
                    [conditioning] if negative is None else [conditioning, negative],
                    schedule=schedule,
                    policy=chosen,
                    guidance=guidance,
                    stopwatch=stopwatch,
                    on_step=on_step,
                    cancel=cancel,
                )
                video = None
                if self.codec is not None:
                    with stopwatch.stage("decode"):
                        video = self.codec.decode(latents)
                times = stopwatch.times()
            return Sample(latents, video, times)
        finally:
            self._busy.release()

    def _guidance(self, scale: float | None, negative: Conditioning | None) -> Guidance:
        if scale is not None and not 0 <= scale < float("inf"):
            raise ValueError(f"guidance_scale must be a finite number from 0, got {scale}")
        if self.config.guidance_embed and negative is not None:
            raise ValueError("this model embeds its guidance; leave the negative conditioning out")
        if self.config.guidance_embed:
            return Guidance(embedded=DEFAULT_GUIDANCE if scale is None else scale)
        if negative is None and scale is not None:
            raise ValueError(
                "guidance_scale needs a negative conditioning: this base model embeds no guidance"
            )
        if negative is None:
            return Guidance()
        return Guidance(classifier_free=DEFAULT_GUIDANCE if scale is None else scale)

    def _initial_latents(
        self,
        latents: Tensor | None,
        latent_shape: tuple[int, int, int, int] | None,
        batch: int,
        seed: int,
    ) -> Tensor:
        if (latents is None) == (latent_shape is None):
            raise ValueError("give either latents or latent_shape, not both and not neither")
        if latents is None:
            rows = [
                torch.randn(latent_shape, generator=torch.Generator().manual_seed(seed + i))
                for i in range(batch)
            ]
            latents = torch.stack(rows)
        expected = (batch, self.config.in_channels)
        if latents.ndim != 5 or tuple(latents.shape[:2]) != expected:
            raise ValueError(
                f"latents must be [{batch}, {self.config.in_channels}, T, H, W], "
                f"got {list(latents.shape)}"
            )
        if not torch.isfinite(latents).all():
            raise ValueError("latents have values that are not finite")
        return self.denoiser.sharding.from_first_rank(latents.to(self.dit.device, torch.float32))


def _placement(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    parameter = next(module.parameters())
    return parameter.device, parameter.dtype
