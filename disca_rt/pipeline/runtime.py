"""`Runtime`: the pipeline as plain calls, for programs that need no request of their own."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from ..conditioning import Conditioning
from ..sampling.loop import StepEvent
from .pipeline import Pipeline, Sample
from .request import Request


class Runtime(Pipeline):
    """Pipeline that is loaded once and called many times, embedded in another program."""

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        frames: int,
        height: int,
        width: int,
        on_step: Callable[[StepEvent], None] | None = None,
        cancel: threading.Event | None = None,
        **fields: Any,
    ) -> Sample:
        """Make a video of each prompt; needs a text encoder and a codec.

        `fields` are those of `Request`: `schedule` and `policy` always, and such as
        `negative_prompt`, `guidance_scale` (None: no guidance, or the embedded 6.0) and `seed`.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        request = Request(prompts=texts, size=(frames, height, width), **fields)
        return self.run(request, on_step=on_step, cancel=cancel)

    def sample(
        self,
        conditioning: Conditioning,
        *,
        on_step: Callable[[StepEvent], None] | None = None,
        cancel: threading.Event | None = None,
        **fields: Any,
    ) -> Sample:
        """Sample each row of `conditioning`, deterministic in `seed`.

        `fields` are those of `Request`: `schedule`, `policy` and either `latents` or `latent_shape`
        always, and such as `negative`, `guidance_scale` and `seed`. `on_step` is called after each
        step; `cancel`, once set, ends the sample with `Cancelled` before the next one.
        """
        request = Request(conditioning=conditioning, **fields)
        return self.run(request, on_step=on_step, cancel=cancel)
