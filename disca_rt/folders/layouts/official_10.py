"""Tencent's folders of 1.0: `hunyuan-video-t2v-720p/`, or `-i2v-`, and the encoders beside it.

The root is `ckpts`, the folder that holds it, or the model's folder in it. A tokenizer lies with
its encoder.
"""

from typing import TYPE_CHECKING

from ...family import VIDEO_10
from ...weights.errors import CheckpointError
from ..files import Files
from ..variants import TEN
from .found import Found, Wish, choose_variant, existing, first_root

if TYPE_CHECKING:
    from ..parts import PartName

ROOTS = ("", "ckpts/")
START = "hunyuan-video-"
DIT = "transformers"
FP8 = "fp8"  # the variant of the file with scales beside it
FP8_FILE = "mp_rank_00_model_states_fp8.pt"


class Official10:
    def find(self, files: Files, wish: Wish) -> Found | None:
        root, models = first_root(files, ROOTS, _models)
        if not models:
            return None
        named = None if wish.variant in (FP8, *TEN) else wish.variant
        model = choose_variant(models, wish._replace(variant=named), root or "the folder")
        task = "i2v" if "i2v" in (model or models[0]) else "t2v"
        places = _places(root, model or models[0], task)
        parts = existing(files, places)
        if wish.variant == FP8:
            parts["dit"] = f"{places['dit']}/{FP8_FILE}"
            if parts["dit"] not in files.names:
                raise CheckpointError(f"{places['dit']} holds no {FP8_FILE}; name no variant")
        return Found("official", parts, places, VIDEO_10.name, task, model or "")


def _models(files: Files, root: str) -> list[str]:
    return [
        name
        for name in files.folders(root)
        if name.startswith(START) and {DIT, "vae"} & set(files.folders(root + name))
    ]


def _places(root: str, model: str, task: str) -> "dict[PartName, str]":
    text = root + ("text_encoder_i2v" if task == "i2v" else "text_encoder")
    return {
        "dit": f"{root}{model}/{DIT}",
        "vae": f"{root}{model}/vae",
        "text_encoder": text,
        "tokenizer": text,
        "text_encoder_2": f"{root}text_encoder_2",
        "tokenizer_2": f"{root}text_encoder_2",
    }
