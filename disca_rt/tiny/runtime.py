"""The embedded model as a `Runtime`: its weights, its text encoding and its codec.

Any checkpoint of the same interface (text and latent widths) works in its place, so that a model
trained on the same clips runs from prompts too.
"""

from pathlib import Path

import torch

from ..pipeline.runtime import Runtime
from .codec import PixelUnshuffleCodec
from .config import takes_tiny_prompts
from .prompts import encode

SHIPPED = Path(__file__).parent / "weights"
DIT = SHIPPED / "restricted-meanflow.safetensors"
PREDICTOR = SHIPPED / "predictor.safetensors"


def with_tiny_prompts(runtime: Runtime) -> Runtime:
    """Give `runtime` the embedded model's text encoder and codec, where they fit it."""
    if not takes_tiny_prompts(runtime.config):
        return runtime
    return runtime.twin(codec=PixelUnshuffleCodec(), text_encoder=encode)


def load_tiny(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Runtime:
    """Load the distilled model and the predictor that ship with the package."""
    return with_tiny_prompts(Runtime.load(DIT, PREDICTOR, device=device, dtype=dtype))
