"""Parts of a model's folder, by name, and the settings it is sampled with. Loads nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..config import DiTConfig
from ..family import FAMILIES, VIDEO_10, VIDEO_15, Family
from .settings import Settings

PartName = Literal[
    "dit",
    "predictor",
    "vae",
    "text_encoder",
    "tokenizer",
    "text_encoder_2",
    "tokenizer_2",
    "image_encoder",
    "image_processor",
    "scheduler",
]
Task = Literal["t2v", "i2v"]

_TEN, _FIFTEEN = "hunyuanvideo-community/HunyuanVideo", "hunyuanvideo-community/HunyuanVideo-1.5"

# Family -> part -> what it is, and where it is usually found.
USUAL: dict[Family, dict[PartName, tuple[str, str]]] = {
    VIDEO_10.name: {
        "dit": ("DiT", f"{_TEN}:transformer"),
        "predictor": ("DisCa predictor", "Tencent/DisCa:hyvideo10_t2v_predictor_540p.safetensors"),
        "vae": ("VAE", f"{_TEN}:vae"),
        "text_encoder": ("Llama", f"{_TEN}:text_encoder"),
        "tokenizer": ("tokenizer.json of Llama", f"{_TEN}:tokenizer"),
        "text_encoder_2": ("CLIP-L", f"{_TEN}:text_encoder_2"),
        "tokenizer_2": ("tokenizer of CLIP-L", f"{_TEN}:tokenizer_2"),
        "image_encoder": ("vision tower of LLaVA", f"{_TEN}-I2V:text_encoder"),
        "image_processor": ("image processor of LLaVA", f"{_TEN}-I2V:image_processor"),
        "scheduler": ("scheduler_config.json", f"{_TEN}:scheduler"),
    },
    VIDEO_15.name: {
        "dit": ("DiT", f"{_FIFTEEN}-Diffusers-480p_t2v:transformer"),
        "predictor": ("DisCa predictor", "Tencent/DisCa"),
        "vae": ("VAE", f"{_FIFTEEN}-Diffusers-480p_t2v:vae"),
        "text_encoder": ("Qwen2.5-VL", f"{_FIFTEEN}-Diffusers-480p_t2v:text_encoder"),
        "tokenizer": ("tokenizer.json of Qwen2.5-VL", f"{_FIFTEEN}-Diffusers-480p_t2v:tokenizer"),
        "text_encoder_2": ("byT5 for glyphs", f"{_FIFTEEN}-Diffusers-480p_t2v:text_encoder_2"),
        "tokenizer_2": ("tokenizer of byT5", f"{_FIFTEEN}-Diffusers-480p_t2v:tokenizer_2"),
        "image_encoder": ("SigLIP", f"{_FIFTEEN}-Diffusers-480p_i2v:image_encoder"),
        "image_processor": (
            "preprocessor_config.json of SigLIP",
            f"{_FIFTEEN}-Diffusers-480p_i2v:feature_extractor",
        ),
        "scheduler": ("scheduler_config.json", f"{_FIFTEEN}-Diffusers-480p_t2v:scheduler"),
    },
}

# Parts that need no file: byT5 splits bytes, and image processors are known.
MADE: dict[Family, tuple[PartName, ...]] = {
    VIDEO_10.name: ("image_processor",),
    VIDEO_15.name: ("tokenizer_2", "image_processor"),
}
WITH_LLAVA: frozenset[Family] = frozenset({VIDEO_10.name})
TEXT: tuple[PartName, ...] = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
# What a model can do -> the parts that it takes.
NEEDS: dict[str, tuple[PartName, ...]] = {
    "samples": ("dit",),
    "prompts": TEXT,
    "images": ("image_encoder", "image_processor"),
    "video": ("vae",),
    "DisCa": ("predictor",),
}


@dataclass(frozen=True)
class Part:
    """One part: the file or the folder it lies in, and in whose layout: diffusers, official, comfy.

    `layout` is "alone" where the part was named by itself.
    """

    name: PartName
    path: Path
    layout: str


@dataclass(frozen=True)
class ModelFolder:
    """A folder with the parts of a model, found by what lies there.

    `config` holds the sizes of the DiT, None where there is none; `places` says where in this
    layout a part would lie, by name.
    """

    root: Path
    layout: str
    family: Family
    task: Task
    parts: Mapping[PartName, Part]
    settings: Settings
    config: DiTConfig | None = None
    places: Mapping[PartName, str] = field(default_factory=dict)

    def require(self, *names: PartName) -> None:
        """Raise ValueError for the first of `names` that is not there, saying where it is found."""
        for name in self.missing(*names):
            raise ValueError(self.lack(name))

    def missing(self, *names: PartName) -> list[PartName]:
        """Those of `names` that are not there, and cannot be made without files."""
        made = MADE[self.family] + (("image_encoder",) if self._eyes_are_inside else ())
        return [name for name in names if name not in self.parts and name not in made]

    @property
    def text_sees_image(self) -> bool:
        """Tell whether the text encoder takes the picture too: LLaVA, of 1.0's image-to-video.

        SkyReels' takes prompts alone, and its pictures are among the latents.
        """
        is_skyreels = self.settings.variant.startswith("skyreels")
        return self.family in WITH_LLAVA and self.task == "i2v" and not is_skyreels

    @property
    def _eyes_are_inside(self) -> bool:
        """Tell whether no image encoder is apart: in LLaVA's own folder, or with none at all."""
        is_apart = self.text_sees_image and self.layout == "comfy"
        return self.family in WITH_LLAVA and not is_apart

    def usual(self, name: PartName) -> str:
        """Reference to the Hub under which a part is usually found."""
        return USUAL[self.family][name][1].replace("480p_t2v", f"480p_{self.task}")

    def lack(self, name: PartName) -> str:
        """The line which says that a part is not there, where it is found and where to put it."""
        what, where = USUAL[self.family][name][0], self.usual(name)
        place = self.root / self.places[name] if name in self.places else None
        way_out = f"put it at {place}" if place else _FLAGS.get(name, "give the folder that has it")
        title = FAMILIES[self.family].title
        return f"{self.root} has no {name} ({what} of {title}), found in {where}; {way_out}"


_FLAGS: dict[PartName, str] = {
    "dit": "give it as the dit (--dit)",
    "predictor": "give it as the predictor (--predictor)",
}
