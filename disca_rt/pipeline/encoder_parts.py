"""How the encoders of each family, and the check of their prompts, are made of a folder's parts."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ..encoders.text import TextEncoder
from ..family import VIDEO_10, VIDEO_15, Family
from .match import Match, get_rules

if TYPE_CHECKING:
    from ..encoders.hunyuan_10 import Prompts10
    from ..encoders.hunyuan_15 import Prompts15
    from ..folders.parts import ModelFolder, PartName


class PartLoader(Protocol):
    """A whole model, whose parts are loaded by name, and the program that it is to match."""

    folder: "ModelFolder"

    @property
    def match(self) -> Match:
        """Name of the program."""

    def part(self, name: "PartName") -> Any:
        """Load an encoder's network, tokenizer or image processor."""


def encoder_parts(folder: "ModelFolder") -> tuple["PartName", ...]:
    """Names of the parts that a model encodes prompts with, and its picture where it takes one."""
    from ..folders.parts import NEEDS

    sees = folder.text_sees_image or (folder.task == "i2v" and folder.family == VIDEO_15.name)
    return NEEDS["prompts"] + (NEEDS["images"] if sees else ())


def _prompts_10(model: PartLoader) -> "Prompts10":
    from ..encoders.hunyuan_10 import Prompts10
    from ..encoders.pooled import check_clip_tokenizer
    from ..encoders.rules import RULES
    from ..encoders.templates import IMAGE_TO_VIDEO_10, TEXT_TO_VIDEO_10

    wording = IMAGE_TO_VIDEO_10 if model.folder.text_sees_image else TEXT_TO_VIDEO_10
    rules = RULES[get_rules(model.match).encoding]
    prompts = Prompts10(model.part("tokenizer"), rules, wording)
    check_clip_tokenizer(model.part("tokenizer_2"))
    return prompts


def _prompts_15(model: PartLoader) -> "Prompts15":
    from ..encoders.hunyuan_15 import Prompts15
    from ..encoders.rules import RULES

    rules = RULES[get_rules(model.match).encoding]
    return Prompts15(*map(model.part, ("tokenizer", "tokenizer_2")), rules)


def _encoder_10(model: PartLoader) -> TextEncoder:
    from ..encoders.hunyuan_10 import Encoder10
    from ..encoders.llava import STRIDES, Encoder10Image
    from ..encoders.rules import RULES

    names = "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"
    rules = RULES[get_rules(model.match).encoding]
    if not model.folder.text_sees_image:
        return Encoder10(*map(model.part, names), rules=rules)
    names += ("image_processor",)
    kind = "token_replace" if model.folder.config.takes_first_frame else "latent_concat"
    return Encoder10Image(*map(model.part, names), stride=STRIDES[kind], rules=rules)


def _encoder_15(model: PartLoader) -> TextEncoder:
    from ..encoders.hunyuan_15 import Encoder15
    from ..encoders.rules import RULES

    names = encoder_parts(model.folder)
    rules = RULES[get_rules(model.match).encoding]
    width = model.folder.config.vision_dim
    return Encoder15(*map(model.part, names), vision_width=width, rules=rules)


PROMPTS: dict[Family, "Callable[[PartLoader], Prompts10 | Prompts15]"] = {
    VIDEO_10.name: _prompts_10,
    VIDEO_15.name: _prompts_15,
}
ENCODERS: dict[Family, Callable[[PartLoader], TextEncoder]] = {
    VIDEO_10.name: _encoder_10,
    VIDEO_15.name: _encoder_15,
}
