"""diffusers' folders: a folder for each part, and `model_index.json`."""

from typing import TYPE_CHECKING

from ..files import Files
from .found import Found, Wish

if TYPE_CHECKING:
    from ..parts import PartName

INDEX = "model_index.json"
FOLDERS: "dict[PartName, tuple[str, ...]]" = {
    "dit": ("transformer",),
    "predictor": ("predictor",),
    "vae": ("vae",),
    "text_encoder": ("text_encoder",),
    "tokenizer": ("tokenizer",),
    "text_encoder_2": ("text_encoder_2",),
    "tokenizer_2": ("tokenizer_2",),
    "image_encoder": ("image_encoder",),
    "image_processor": ("feature_extractor", "image_processor"),
    "scheduler": ("scheduler",),
}


class Diffusers:
    def find(self, files: Files, wish: Wish) -> Found | None:
        if INDEX not in files.here() and not files.holds_weights("transformer"):
            return None
        there = {
            part: folder
            for part, folders in FOLDERS.items()
            for folder in folders
            if files.here(folder)
        }
        places = {part: folders[0] for part, folders in FOLDERS.items()}
        return Found("diffusers", there, places)
