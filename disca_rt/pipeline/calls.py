"""Plain calls of a pipeline, for programs that need no request of their own."""

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..conditioning import Conditioning
from ..sampling.loop import StepEvent
from .defaults import fields_of
from .request import Request

if TYPE_CHECKING:
    from .pipeline import Sample


class Calls:
    """`generate` and `sample`, over the `run` of a pipeline."""

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        on_step: Callable[[StepEvent], None] | None = None,
        cancel: threading.Event | None = None,
        **fields: Any,
    ) -> "Sample":
        """Make a video of each prompt; needs encoders and a VAE.

        `fields` are those of `Request`, such as `image`, `seed`, `negative_prompt`. What is left
        out is as the variant in the folder is sampled; a DiT alone has no such settings, and there
        the size, `schedule` and `policy` must be given. ValueError for a size without all sides.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        sides = {"frames": frames, "height": height, "width": width}
        missing = [name for name, side in sides.items() if side is None]
        if missing and len(missing) < len(sides):
            raise ValueError(f"give frames, height and width together; {missing[0]} is missing")
        if not missing:
            fields["size"] = (frames, height, width)
        has_predictor = self.parts.predictor is not None
        fields = fields_of(self.facts, has_predictor, fields)
        if all(fields.get(name) is None for name in ("size", "latent_shape", "latents", "edit")):
            raise ValueError("a DiT alone has no size of its own: give frames, height and width")
        request = Request(prompts=texts, **fields)
        return self.run(request, on_step=on_step, cancel=cancel)

    def sample(
        self,
        conditioning: Conditioning,
        *,
        on_step: Callable[[StepEvent], None] | None = None,
        cancel: threading.Event | None = None,
        **fields: Any,
    ) -> "Sample":
        """Sample each row of `conditioning`, deterministic in `seed`.

        `fields` are those of `Request`: `schedule`, `policy` and either `latents` or `latent_shape`
        always, and such as `negative`, `guidance_scale` and `seed`. `on_step` is called after each
        step; `cancel`, once set, ends the sample with `Cancelled` before the next one.
        """
        request = Request(conditioning=conditioning, **fields)
        return self.run(request, on_step=on_step, cancel=cancel)
