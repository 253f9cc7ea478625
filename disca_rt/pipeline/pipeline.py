"""`Pipeline`: the owner of models and stages, from a request to latents and video.

Its stages are conditioning, denoise and decode. It owns its models and the buffers that cache
policies write into; two of them in one process share nothing but weights that both were given. One
sample at a time: a server has one for each that it runs at once.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from torch import Tensor

from ..cache.calibration import Calibrations, Subject, explained
from ..cache.method import Parts, Sketch
from ..cache.policies import resolve, takes_calibration
from ..cache.policy import Policy
from ..cache.token_mask import TokenMask
from ..config import DiTConfig, predictor_config
from ..encoders.text import TextEncoder
from ..graphs.runner import GraphRunner
from ..instruments.stopwatch import StageTime, Stopwatch
from ..models.dit import DiT
from ..models.predictor import Predictor
from ..sampling.denoiser import MAX_STATES, current_device
from ..sampling.loop import StepEvent
from ..schedule import Schedule
from ..vae.codec import Codec, OnTile
from ..vae.preview import Preview, fit_preview
from ..vae.sizes import VideoSizes
from .calls import Calls
from .decode import Decoding
from .denoising_models import DenoisingModels
from .edits import edit_mask_of, edit_of
from .encode import Encoding
from .fit import (
    check_finite,
    check_fits,
    guidance_of,
    image_share,
    noise_of,
    place_of,
)
from .host_settings import set_aside, warn_of_precision
from .listeners import Listeners, StageName
from .load import Facts, Options, load_parts
from .request import Request
from .residency import Held, Part, is_absent, kept, loaded
from .sample import Busy, Closed, Sample
from .subject import subject_of

P = TypeVar("P", bound="Pipeline")
PartName = Literal["codec", "text_encoder"]


class Pipeline(Calls, DenoisingModels):
    """Models and their stages; `dit` and `predictor` share device and dtype.

    With `graphs` steps, and whole trajectories where no `on_step` or `cancel` is given, are
    captured at their second run and then replayed; where ranks share a sample, steps between their
    exchanges. A capture writes into the policy's state, which is of one policy, batch, size and
    text length: those of the last `max_states` of them stay, each with its captures. A state takes
    the policy's `cache_bytes` in each pass; DisCa's at 704x704x129 with the 13B model in bf16 is
    394 MB. Without `graphs` only the last one stays.

    Policies take the options that a text leaves out from `calibration` where it fits the sample.

    Parts may be `Held`: loaded when they are first used, and freed when their stage ends. Then
    `facts` says what is known of the DiT before.

    Results do not depend on the default dtype, default device, autocast, gradient or inference mode
    of the program around; float32 matmul precision and the number of CPU threads are the process's
    own, and may change the last digits.
    """

    dit = Part[DiT]()
    predictor = Part[Predictor | None]()
    codec = Part[Codec | None]()
    text_encoder = Part[TextEncoder | None]()

    def __init__(
        self,
        dit: DiT | Held[DiT],
        predictor: Predictor | Held[Predictor] | None = None,
        *,
        codec: Codec | Held[Codec] | None = None,
        text_encoder: TextEncoder | Held[TextEncoder] | None = None,
        graphs: GraphRunner | None = None,
        max_states: int = MAX_STATES,
        facts: Facts | None = None,
        calibration: Calibrations | None = None,
    ) -> None:
        if max_states < 1:
            raise ValueError(f"max_states must be at least 1, got {max_states}")
        self.dit, self.predictor = dit, predictor
        self.codec, self.text_encoder = codec, text_encoder
        self.graphs, self.max_states = graphs, max_states
        self.calibration = calibration
        if facts is None:
            check_fits(self.predictor, self.dit)
            facts = Facts(self.dit.config, place_of(self.dit), self.dit.fp8)
        self.facts = facts
        self._busy = threading.Lock()
        self._is_closed = False

    @classmethod
    def load(
        cls: type[P],
        source: str | Path,
        predictor: str | Path | None = None,
        *,
        graphs: GraphRunner | None = None,
        max_states: int = MAX_STATES,
        calibration: Calibrations | None = None,
        **options: Any,
    ) -> P:
        """Load a DiT, or a whole model, from a file, a folder or a Hub reference.

        Of a folder with encoders and a VAE, in any published layout, each part is loaded when its
        stage begins and freed when it ends. `options` are the fields of `load.Options`: `device`,
        `dtype`, `variant`, `keep_resident` and so on. CheckpointError for anything wrong with a
        file; ValueError for options that do not go together.
        """
        parts = load_parts(source, predictor, Options(**options))
        chosen = {"graphs": graphs, "max_states": max_states, "calibration": calibration}
        return cls(**parts._asdict(), **chosen)

    def twin(self: P, **changed: Any) -> P:
        """Pipeline of the same models, with buffers of its own; `changed` as when one is built."""
        parts = {"codec": self._codec, "text_encoder": self._text_encoder, "graphs": self.graphs}
        kept = {**parts, "max_states": self.max_states, "facts": self.facts}
        kept["calibration"] = self.calibration
        return type(self)(self._dit, self._predictor, **{**kept, **changed})

    @property
    def config(self) -> DiTConfig:
        """Sizes of the DiT."""
        return self.facts.config

    def run(
        self,
        request: Request,
        *,
        decode: bool = True,
        on_stage: Callable[[StageName], None] | None = None,
        on_step: Callable[[StepEvent], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Sample:
        """Sample what `request` asks for, deterministic in its seed; to a video if `decode`.

        `on_stage` is called with a stage's name as it begins, `on_step` after each step; `cancel`,
        once set, ends the sample with `Cancelled` before the next of either. Raises ValueError
        before any model runs where the request does not fit; FloatingPointError where the latents
        are not finite; `Busy` while another sample runs; `Closed` after `close`.
        """
        listeners = Listeners(on_stage, on_step, cancel)
        with self._alone():
            stopwatch = self.stopwatch()
            warn_of_precision(self.facts.place.dtype)
            self.resolved(request)
            listeners.begin("conditioning")
            request = self._conditioned(request, stopwatch)
            listeners.begin("denoise")
            with self._denoising(stopwatch):
                latents = self._denoised(request, stopwatch, listeners)
            video = None
            if decode and not is_absent(self._codec):
                listeners.begin("decode")
                with loaded(stopwatch, self._codec), stopwatch.stage("decode"):
                    video = self._decoding.video(latents, cancel)
                check_finite("decoded video", video, self.facts.place.dtype)
            return Sample(latents, video, stopwatch.times())

    def decode_into(
        self,
        latents: Tensor,
        writers: Sequence[Callable[[Tensor], object]],
        *,
        on_tile: OnTile | None = None,
        cancel: threading.Event | None = None,
    ) -> dict[str, StageTime]:
        """Decode samples `[B, C, T, H, W]`, handing each one's frames to its writer as they come.

        A writer gets chunks `[3, t, H, W]` in [0, 1], in order, and `on_tile` the number of tiles
        done and of all. Returns the time of each stage: loading, decode and writing. Raises
        FloatingPointError where latents or frames are not finite, `Cancelled` between tiles once
        `cancel` is set.
        """
        with self._alone():
            stopwatch = self.stopwatch()
            with loaded(stopwatch, self._codec):
                for sample, write in zip(latents, writers, strict=True):
                    chunks = self._decoding.chunks(sample, on_tile, cancel)
                    for chunk in stopwatch.timed("decode", chunks):
                        with stopwatch.stage("writing"):
                            write(chunk)
            return stopwatch.times()

    def preview(self) -> Preview:
        """Fit a linear preview of latents from the VAE, which is loaded if needed.

        ValueError, naming the part, where there is none.
        """
        if is_absent(self._codec):
            if self.facts.folder is not None:
                self.facts.folder.require("vae")
            raise ValueError("a preview is fitted from a VAE, and this pipeline has none")
        with self._alone(), self._codec.used() as codec:
            return fit_preview(codec)

    @property
    def _decoding(self) -> Decoding:
        return Decoding(self.codec, self.facts.lost_frames)

    @property
    def is_loaded(self) -> bool:
        """True where the DiT is in memory, or always stays there."""
        return self._dit.loaded is not None

    @property
    def decodes(self) -> bool:
        """True where there is a codec, in memory or to be loaded."""
        return not is_absent(self._codec)

    def size_of(self, latents: Sequence[int]) -> tuple[int, int, int]:
        """Size (frames, height, width) of the video of latents of shape (..., T, H, W)."""
        frames, height, width = self._sizes.video_size(*latents[-3:])
        return frames - self.facts.lost_frames, height, width

    @contextmanager
    def keeping(self, *names: PartName) -> Iterator[None]:
        """Keep parts, once they are loaded, from call to call while the context lasts."""
        with kept(*(getattr(self, f"_{name}") for name in names)):
            yield

    def conditioned(self, request: Request, stopwatch: Stopwatch | None = None) -> Request:
        """Encode the prompts of `request`, turn its size into latents, and check all of it.

        What it takes is added to `stopwatch`.
        """
        with self._alone():
            return self._conditioned(request, stopwatch or self.stopwatch())

    @property
    def parts(self) -> Parts:
        """Parts of the models that policies are made of; of a predictor on disk, its sizes."""
        dit, predictor = self._dit.loaded, self._predictor.loaded
        if predictor is None and not is_absent(self._predictor):
            predictor = Sketch(predictor_config(self.config))
        return Parts(self.config, dit and dit.ops, predictor)

    def resolved(self, request: Request) -> tuple[Schedule, Policy]:
        """Noise levels and policy of `request`; ValueError lists what a wrong one could be."""
        is_text = isinstance(request.policy, str)
        parts = self.parts._replace(edit_mask=self._edit_mask(request))
        if self.calibration is None or not is_text or not takes_calibration(request.policy):
            return resolve(request.schedule, request.policy, parts)
        subject = self.subject(request)
        parts = parts._replace(calibration=self.calibration.fitting(subject))
        with explained(self.calibration, subject):
            return resolve(request.schedule, request.policy, parts)

    def subject(self, request: Request) -> Subject:
        """The facts of a request's samples that a calibration must be of."""
        return subject_of(request, self.facts, self._sizes, self._dit.loaded)

    def _edit_mask(self, request: Request) -> TokenMask | None:
        return edit_mask_of(request, self.facts, self._sizes)

    @property
    def _sizes(self) -> Codec | VideoSizes:
        return self._codec.loaded or self.facts.sizes

    def decides_per_sample(self, request: Request) -> bool:
        """True where each sample of a batch is run, and decided on, by itself."""
        if request.decide is None:
            return self.resolved(request)[1].depends_on_batch
        return request.decide == "per-sample"

    def close(self) -> None:
        """Free models, states and captures; once is enough, and `Busy` while a sample runs."""
        if self._is_closed:
            return
        with self._alone():
            self._close_denoiser()
            self._is_closed = True
            del self.dit, self.predictor, self.codec, self.text_encoder, self.graphs, self.facts

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
            device = self.facts.place.device
            with set_aside(device), current_device(device):
                yield
        finally:
            self._busy.release()

    def _conditioned(self, request: Request, stopwatch: Stopwatch) -> Request:
        if request.edit is not None:
            request = replace(request, mask=self._edit_mask(request))
        return Encoding(self.facts, self._text_encoder, self._codec).conditioned(request, stopwatch)

    def _denoised(self, request: Request, stopwatch: Stopwatch, listeners: Listeners) -> Tensor:
        schedule, policy = self.resolved(request)
        facts, batch = self.facts, request.conditioning.batch
        place = facts.place.device
        noise = noise_of(request, batch, facts.rules.noise, facts.config, facts.place)
        if share := image_share(request, facts.rules, facts.config):
            noise = request.conditioning.mixed_into(noise, share)
        noise, edit = self.denoiser.sharding.from_first_rank(noise.to(place)), None
        if request.edit is not None:
            edit = edit_of(request, noise, self.config)
        latents = self.denoiser.denoise(
            noise if edit is None else edit.at(schedule.sigmas[0]),
            request.conditionings,
            schedule=schedule,
            policy=policy,
            guidance=guidance_of(request, self.config),
            stopwatch=stopwatch,
            on_step=listeners.on_step,
            cancel=listeners.cancel,
            per_sample=self.decides_per_sample(request),
            edit=edit,
        )
        check_finite("result", latents, facts.place.dtype)
        return latents
