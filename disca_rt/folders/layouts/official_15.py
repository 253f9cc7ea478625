"""Tencent's folder of 1.5: `transformer/<variant>/`, and encoders that its users add to it."""

from typing import TYPE_CHECKING

from ...family import VIDEO_15
from ..files import Files
from .found import Found, Wish, choose_variant, existing, first_root

if TYPE_CHECKING:
    from ..parts import PartName

ROOTS = ("", "ckpts/")
LLM = "text_encoder/llm"
GLYPHS = "text_encoder/Glyph-SDXL-v2/checkpoints/byt5_model.pt"
SUPER_RESOLUTION = "_sr_"  # models that enlarge a video, which are no way to make one
PLACES: "dict[PartName, str]" = {
    "vae": "vae",
    "scheduler": "scheduler",
    "text_encoder": LLM,
    "tokenizer": LLM,
    "text_encoder_2": GLYPHS,
    "image_encoder": "vision_encoder/siglip/image_encoder",
    "image_processor": "vision_encoder/siglip/feature_extractor",
}


class Official15:
    def find(self, files: Files, wish: Wish) -> Found | None:
        root, variants = first_root(files, ROOTS, _variants)
        if not variants and not files.here(root + LLM):
            return None
        variant = choose_variant(variants, wish, f"{root}transformer")
        places = {name: root + place for name, place in PLACES.items()}
        places["dit"] = f"{root}transformer/{variant or '480p_t2v'}"
        parts = existing(files, places)
        if variant is None:
            parts.pop("dit", None)
        task = None if variant is None else "i2v" if "i2v" in variant else "t2v"
        return Found("official", parts, places, VIDEO_15.name, task, variant or "")


def _variants(files: Files, root: str) -> list[str]:
    folder = f"{root}transformer"
    return [
        name
        for name in files.folders(folder)
        if SUPER_RESOLUTION not in name and files.holds_weights(f"{folder}/{name}")
    ]
