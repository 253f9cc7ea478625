"""ComfyUI's folders: a folder of files for each kind of part, as Comfy-Org repackages models.

Files of many models may share them, so that parts are known by the names that Comfy-Org gave them.
Configurations and tokenizers do not travel with them.
"""

import re
from fnmatch import fnmatch
from typing import TYPE_CHECKING, NamedTuple

from ...family import VIDEO_10, VIDEO_15, Family
from ...weights.errors import CheckpointError
from ...weights.files.pick import SUFFIXES
from ..files import Files
from ..variants import TEN
from .found import Found, Wish, first_root

if TYPE_CHECKING:
    from ..parts import PartName

ROOTS = ("", "split_files/", "models/")
MODELS = ("diffusion_models", "unet")
HUNYUAN = re.compile(r"hunyuan|hyvid|skyreels|^(480|720)p_[ti]2v")
FIFTEEN = re.compile(r"(hunyuan|hy)_?video_?1[._]?5|^(480|720)p_[ti]2v")
ENLARGES = re.compile(r"_sr_|latent_upsampler")
# What is left out of a variant's name: the model before it, and the precision after it.
BEFORE = re.compile(r"^hunyuan_?video_?(1[._]?5)?_")
AFTER = re.compile(r"_(bf16|fp16|fp32|fp8_scaled|fp8_e4m3fn|fp8_e5m2|fp8)$")
IMAGE = re.compile(r"i2v|image_to_video")


class Names(NamedTuple):
    """Folders that a part may lie in, and patterns of its name, the best first."""

    folders: tuple[str, ...]
    patterns: tuple[str, ...]


ENCODERS = ("text_encoders", "clip")
# Family -> part -> where its files are.
FILES: "dict[Family, dict[PartName, Names]]" = {
    VIDEO_10.name: {
        "vae": Names(("vae",), ("hunyuan_video_vae*",)),
        "text_encoder": Names(ENCODERS, ("llava_llama3_fp16*", "llava_llama3*")),
        "text_encoder_2": Names(ENCODERS, ("clip_l.*", "clip_l*")),
        "image_encoder": Names(("clip_vision",), ("llava_llama3_vision*",)),
    },
    VIDEO_15.name: {
        "vae": Names(("vae",), ("hunyuanvideo15_vae*", "hunyuanvideo1.5_vae*")),
        "text_encoder": Names(ENCODERS, ("qwen_2.5_vl_7b.*", "qwen_2.5_vl_7b*")),
        "text_encoder_2": Names(ENCODERS, ("byt5_small_glyphxl*",)),
        "image_encoder": Names(("clip_vision",), ("sigclip_vision_patch14_384*",)),
    },
}
# Parts of which ComfyUI has no files -> the folder that may be put beside the others.
ADDED: "dict[PartName, str]" = {
    "tokenizer": "tokenizer",
    "tokenizer_2": "tokenizer_2",
    "image_processor": "image_processor",
    "predictor": "predictor",
}
# Where both models share a folder, those of each by its own names; they go first.
OWN: "dict[Family, dict[PartName, str]]" = {
    VIDEO_10.name: {
        "tokenizer": "tokenizer_llama",
        "tokenizer_2": "tokenizer_clip",
        "image_processor": "image_processor_llava",
    },
    VIDEO_15.name: {"tokenizer": "tokenizer_qwen", "image_processor": "image_processor_siglip"},
}


class ComfyUI:
    def find(self, files: Files, wish: Wish) -> Found | None:
        root, models = first_root(files, ROOTS, _models)
        if not models:
            root, _ = first_root(files, ROOTS, _families)
        model = _choose(models, wish, root)
        told = _families(files, root)
        family = wish.family or (told[0] if len(told) == 1 else None)
        family = family if model is None else _family(model)
        places = _places(files, root, family or VIDEO_10.name)
        parts = {name: place for name, place in places.items() if _is_there(files, place)}
        places["dit"] = model or f"{root}diffusion_models"
        if model is None:
            return Found("comfy", parts, places, family) if told else None
        task = "i2v" if IMAGE.search(model) else "t2v"
        return Found("comfy", {**parts, "dit": model}, places, family, task, _variant(model))


def _families(files: Files, root: str) -> list[Family]:
    """The families whose text encoder lies in `root`."""
    return [name for name in FILES if _is_there(files, _places(files, root, name)["text_encoder"])]


def _models(files: Files, root: str) -> list[str]:
    """The DiTs of HunyuanVideo, each with its folder."""
    return [
        f"{root}{folder}/{name}"
        for folder in MODELS
        for name in _below(files, root + folder)
        if _is_model(name.rpartition("/")[2])
    ]


def _below(files: Files, folder: str) -> list[str]:
    """Names of the files in `folder`, and then of those in its folders: many sort theirs so."""
    return sorted(files.inside(folder).names, key=lambda name: (name.count("/"), name))


def _is_model(name: str) -> bool:
    is_hunyuan = HUNYUAN.search(name.lower()) and not ENLARGES.search(name)
    return bool(is_hunyuan) and name.endswith(SUFFIXES)


def _choose(models: list[str], wish: Wish, root: str) -> str | None:
    """The DiT that is wished for, by its whole name or without the model and the precision."""
    if wish.has_dit or not models:
        return None
    wanted = None if wish.variant in TEN else wish.variant  # a row of settings, not a file
    chosen = [model for model in models if wanted is None or wanted in _names(model)]
    if len(chosen) == 1:
        return chosen[0]
    listed = ", ".join(_stem(model) for model in chosen or models)
    where = f"{root}diffusion_models"
    if wanted is None:
        raise CheckpointError(
            f"{where} holds {len(models)} variants; name one, --variant: {listed}"
        )
    raise CheckpointError(f"variant must be one of {listed} in {where}, got {wish.variant!r}")


def _stem(model: str) -> str:
    return model.rpartition("/")[2].rpartition(".")[0]


def _variant(model: str) -> str:
    return AFTER.sub("", BEFORE.sub("", _stem(model)))


def _names(model: str) -> tuple[str, ...]:
    stem = _stem(model)
    return stem, BEFORE.sub("", stem), _variant(model), _variant(model).replace("_cfg_", "_")


def _family(model: str) -> Family:
    return VIDEO_15.name if FIFTEEN.search(_stem(model).lower()) else VIDEO_10.name


def _places(files: Files, root: str, family: Family) -> "dict[PartName, str]":
    """Places of all parts: where each lies, or would lie."""
    places: dict[PartName, str] = {}
    for part, (folders, patterns) in FILES[family].items():
        there = (
            f"{root}{folder}/{name}"
            for pattern in patterns
            for folder in folders
            for name in _below(files, root + folder)
            if fnmatch(name.rpartition("/")[2], pattern) and name.endswith(SUFFIXES)
        )
        usual = f"{root}{folders[0]}/{patterns[0].rstrip('.*')}.safetensors"
        places[part] = next(there, usual)
    return places | {part: root + _added(files, root, family, part) for part in ADDED}


def _added(files: Files, root: str, family: Family, part: "PartName") -> str:
    """The folder of a part that was added: the model's own if there, or if the other has one."""
    usual, own = ADDED[part], OWN[family].get(part, ADDED[part])
    others = [names[part] for name, names in OWN.items() if name != family and part in names]
    is_shared = any(files.here(root + other) for other in others) and not files.here(root + usual)
    return own if is_shared or files.here(root + own) else usual


def _is_there(files: Files, place: str) -> bool:
    return place in files.names or bool(files.here(place))
