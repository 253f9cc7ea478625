"""The table of layouts; the first that recognises a folder wins."""

from ..files import Files
from .comfyui import OWN, ComfyUI
from .diffusers import Diffusers
from .disca import with_disca
from .found import FolderLayout, Found, Wish
from .official_10 import Official10
from .official_15 import Official15

# How folders at the top of a model's are called: those of parts, and those that hold parts.
TOPS = (
    *("transformer", "transformers", "predictor", "vae", "scheduler", "guider", "disca", "DisCa"),
    *("text_encoder", "text_encoders", "text_encoder_2", "text_encoder_i2v", "clip"),
    *("tokenizer", "tokenizer_2", "image_encoder", "image_processor", "feature_extractor"),
    *("vision_encoder", "clip_vision", "diffusion_models", "unet"),
    *(name for names in OWN.values() for name in names.values()),
    *("ckpts", "split_files", "models"),
)
STARTS = ("hunyuan-video-", "hyvideo1")

LAYOUTS: tuple[FolderLayout, ...] = (Diffusers(), Official15(), Official10(), ComfyUI())


def is_of_model(name: str) -> bool:
    """Tell whether a folder called `name` may be one of those at the top of a model's."""
    return name in TOPS or name.startswith(STARTS)


def recognise(files: Files, wish: Wish) -> Found | None:
    """Find the parts among `files`, less those given apart; None where no layout has them."""
    found = next((found for row in LAYOUTS if (found := row.find(files, wish))), None)
    found = with_disca(files, found, wish)
    if found is None:
        return None
    kept = {name: place for name, place in found.parts.items() if name not in wish.given}
    return found._replace(parts=kept)
