"""`Pipeline`: the owner of models and stages, from a request to latents and video.

Its stages are conditioning, denoise and decode. It owns its models and the buffers that cache
policies write into; two of them in one process share nothing but weights that both were given. One
sample at a time: a server has one for each that it runs at once.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from ..attention.local import LocalAttention
from ..attention.protocol import Attention
from ..cache.policies import Parts, resolve
from ..cache.policy import Policy
from ..config import DiTConfig
from ..encoders.text import TextEncoder
from ..graphs.runner import GraphRunner
from ..instruments.stopwatch import StageTime, Stopwatch
from ..kernels.ops import Ops, get_ops
from ..models.dit import DiT
from ..models.predictor import Predictor
from ..sampling.denoiser import MAX_STATES, Denoiser, current_device
from ..sampling.loop import StepEvent
from ..schedule import Schedule
from ..vae.codec import Codec
from ..vae.sizes import SIZES
from ..weights.load import load_dit, load_predictor
from .fit import check_conditionings, check_latents, guidance_of, noise_of
from .host_settings import set_aside, warn_of_precision
from .listeners import Listeners, StageName
from .request import Request

P = TypeVar("P", bound="Pipeline")


class Busy(RuntimeError):
    """Refusal of a second sample, or of `close`, while a pipeline samples."""


class Closed(RuntimeError):
    """Refusal of any use of a pipeline after `close`."""


@dataclass(frozen=True)
class Sample:
    """Result: `latents [B, C, T, H, W]` fp32, `video [B, 3, T', H', W']` in [0, 1] or None.

    `times` says where the time went: prompts, conditioning, full steps, predicted steps, decode.
    """

    latents: Tensor
    video: Tensor | None
    times: dict[str, StageTime]


class Pipeline:
    """Models and their stages; `dit` and `predictor` share device and dtype.

    With `graphs` steps, and whole trajectories where no `on_step` or `cancel` is given, are
    captured at their second run and then replayed; where ranks share a sample, steps between their
    exchanges. A capture writes into the policy's state, which is of one policy, batch, size and
    text length: those of the last `max_states` of them stay, each with its captures. A state takes
    the policy's `cache_bytes` in each pass; DisCa's at 704x704x129 with the 13B model in bf16 is
    394 MB. Without `graphs` only the last one stays.

    Results do not depend on the default dtype, default device, autocast, gradient or inference mode
    of the program around; float32 matmul precision and the number of CPU threads are the process's
    own, and may change the last digits.
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
        _check_fits(predictor, dit)
        self.dit, self.predictor = dit, predictor
        self.codec, self.text_encoder = codec, text_encoder
        self.graphs = graphs
        self.denoiser = Denoiser(dit, graphs, max_states)
        self._busy = threading.Lock()
        self._is_closed = False

    @classmethod
    def load(
        cls: type[P],
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
    ) -> P:
        """Load models from files, folders or Hub references; `dtype` None keeps the DiT's own.

        With `fp8_weights` the linears of the DiT's blocks stay in FP8 in memory and are decoded at
        each use: weights halved, arithmetic in `dtype` as before, no faster.
        Several ranks share a sample with an `attention` that trades its tokens
        (`parallel.attention`); all of them then call `run` alike.
        """
        if isinstance(attention, str):
            attention = LocalAttention(attention)
        if isinstance(ops, str):
            ops = get_ops(ops, device)
        built = {"ops": ops, "attention": attention, "device": device}
        with set_aside(torch.device(device)):
            loaded = load_dit(dit, dtype=dtype, fp8_weights=fp8_weights, **built)
            if predictor is not None:
                predictor = load_predictor(predictor, loaded.config, dtype=loaded.dtype, **built)
        return cls(loaded, predictor, graphs=graphs, max_states=max_states)

    def twin(self: P, **changed: Any) -> P:
        """Pipeline of the same models, with buffers of its own; `changed` as when one is built."""
        parts = {"codec": self.codec, "text_encoder": self.text_encoder, "graphs": self.graphs}
        kept = {**parts, "max_states": self.denoiser.max_states}
        return type(self)(self.dit, self.predictor, **{**kept, **changed})

    @property
    def config(self) -> DiTConfig:
        """Sizes of the DiT."""
        return self.dit.config

    def run(
        self,
        request: Request,
        *,
        on_stage: Callable[[StageName], None] | None = None,
        on_step: Callable[[StepEvent], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Sample:
        """Sample what `request` asks for, deterministic in its seed.

        `on_stage` is called with a stage's name as it begins, `on_step` after each step; `cancel`,
        once set, ends the sample with `Cancelled` before the next of either. Raises ValueError
        before any model runs where the request does not fit; FloatingPointError where the latents
        are not finite; `Busy` while another sample runs; `Closed` after `close`.
        """
        listeners = Listeners(on_stage, on_step, cancel)
        with self._alone():
            stopwatch = Stopwatch(self.dit.device)
            warn_of_precision(self.dit.dtype)
            schedule, policy = self.resolved(request)
            listeners.begin("conditioning")
            request = self._conditioned(request, stopwatch)
            listeners.begin("denoise")
            request = replace(request, schedule=schedule, policy=policy)
            latents = self._denoised(request, stopwatch, listeners)
            video = None
            if self.codec is not None:
                listeners.begin("decode")
                with stopwatch.stage("decode"):
                    video = self.codec.decode(latents)
                _check_finite("decoded video", video, self.dit.dtype)
            return Sample(latents, video, stopwatch.times())

    def conditioned(self, request: Request) -> Request:
        """Encode the prompts of `request`, turn its size into latents, and check all of it."""
        with self._alone():
            return self._conditioned(request, Stopwatch(self.dit.device))

    @property
    def parts(self) -> Parts:
        """Parts of the models that policies are made of."""
        return Parts(self.config, self.dit.ops, self.predictor)

    def resolved(self, request: Request) -> tuple[Schedule, Policy]:
        """Noise levels and policy of `request`; ValueError lists what a wrong one could be."""
        return resolve(request.schedule, request.policy, self.parts)

    def close(self) -> None:
        """Free models, states and captures; once is enough, and `Busy` while a sample runs."""
        if self._is_closed:
            return
        with self._alone():
            self.denoiser.close()
            self._is_closed = True
            del self.dit, self.predictor, self.codec, self.text_encoder, self.graphs, self.denoiser

    def __enter__(self: P) -> P:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> NoReturn:  # of what is not there
        if self.__dict__.get("_is_closed"):
            raise Closed(f"this {type(self).__name__} is closed; make another one")
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Admit one call at a time, on this pipeline's device, apart from the settings around."""
        name = type(self).__name__
        if not self._busy.acquire(blocking=False):
            raise Busy(f"this {name} is sampling; make a second one for another thread")
        try:
            with set_aside(self.dit.device), current_device(self.dit.device):
                yield
        finally:
            self._busy.release()

    def _conditioned(self, request: Request, stopwatch: Stopwatch) -> Request:
        if request.prompts is not None and (self.text_encoder is None or self.codec is None):
            raise ValueError(
                f"prompts need the text encoders of {self.config.family}, which this runtime does "
                "not have; give a saved conditioning instead"
            )
        guidance = guidance_of(request, self.config)
        if request.size is not None:
            codec = self.codec or SIZES[self.config.family]
            shape = self.config.in_channels, *codec.latent_shape(*request.size)[1:]
            request = replace(request, size=None, latent_shape=shape)
        if request.prompts is not None:
            check_latents(request, self.config, len(request.prompts))
            is_mixed = guidance.classifier_free is not None
            with stopwatch.stage("prompts"):
                request = self._encoded(request, is_mixed)
        sides = {"conditioning": request.conditioning, "negative": request.negative}
        cleaned = {name: each and each.without_padding_values() for name, each in sides.items()}
        request = replace(request, **cleaned)
        check_conditionings(request, self.config)
        return request

    def _encoded(self, request: Request, is_mixed: bool) -> Request:
        """Put conditionings in the place of the prompts."""
        prompts = list(request.prompts)
        negative = self.text_encoder([request.negative_prompt] * len(prompts)) if is_mixed else None
        conditioning = self.text_encoder(prompts)
        given = {"prompts": None, "negative_prompt": "", "negative": negative}
        return replace(request, **given, conditioning=conditioning)

    def _denoised(self, request: Request, stopwatch: Stopwatch, listeners: Listeners) -> Tensor:
        noise = noise_of(request, request.conditioning.batch).to(self.dit.device)
        latents = self.denoiser.denoise(
            self.denoiser.sharding.from_first_rank(noise),
            request.conditionings,
            schedule=request.schedule,
            policy=request.policy,
            guidance=guidance_of(request, self.config),
            stopwatch=stopwatch,
            on_step=listeners.on_step,
            cancel=listeners.cancel,
        )
        _check_finite("result", latents, self.dit.dtype)
        return latents


def _check_finite(what: str, tensor: Tensor, dtype: torch.dtype) -> None:
    if not torch.isfinite(tensor).all():
        way_out = "" if dtype == torch.float32 else "; try dtype float32"
        name = str(dtype).removeprefix("torch.")
        raise FloatingPointError(f"the {what} is not finite in {name}{way_out}")


def _check_fits(predictor: Predictor | None, dit: DiT) -> None:
    if predictor is None:
        return
    differences = predictor.config.differences(dit.config)
    if differences:
        raise ValueError(f"predictor does not fit the DiT: {'; '.join(differences)}")
    if _placement(predictor) != _placement(dit):
        raise ValueError(
            f"predictor must be where and as the DiT is, {_placement(dit)}, "
            f"got {_placement(predictor)}"
        )


def _placement(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    parameter = next(module.parameters())
    return parameter.device, parameter.dtype
