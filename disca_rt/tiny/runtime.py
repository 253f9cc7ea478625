"""The embedded model as a `Runtime`: its weights, its text encoding and its codec.

Any checkpoint of the same interface (text and latent widths) works in its place, so that a model
trained on the same clips runs from prompts too.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from ..calibration.places import search
from ..conditioning import Conditioning
from ..pipeline.runtime import Runtime
from .codec import PixelUnshuffleCodec
from .config import takes_tiny_prompts
from .prompts import encode

SHIPPED = Path(__file__).parent / "weights"
DIT = SHIPPED / "restricted-meanflow.safetensors"
PREDICTOR = SHIPPED / "predictor.safetensors"


class TinyEncoder:
    """Text encoder of the embedded model, which knows the words of its own world alone."""

    picture = None

    def check(self, prompts: Sequence[str], *, frames: int | None = None) -> list[str]:
        """Raise ValueError, listing the known words, for others; no prompt is ever cut."""
        encode(prompts)
        return []

    def __call__(
        self,
        prompts: Sequence[str],
        image: object = None,
        *,
        frames: int | None = None,
        negative: bool = False,
    ) -> Conditioning:
        """Conditioning of one sample per prompt, in order; it depends on the words alone."""
        return encode(prompts)


def with_tiny_prompts(runtime: Runtime) -> Runtime:
    """Give `runtime` the embedded model's text encoder and codec, where they fit it."""
    if not takes_tiny_prompts(runtime.config):
        return runtime
    return runtime.twin(codec=PixelUnshuffleCodec(), text_encoder=TinyEncoder())


def load_tiny(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Runtime:
    """Load the distilled model and the predictor that ship with the package.

    Policies take options that are left out from calibrations beside it, or the user's.
    """
    placed = {"device": device, "dtype": dtype, "calibration": search(SHIPPED)}
    return with_tiny_prompts(Runtime.load(DIT, PREDICTOR, **placed))
