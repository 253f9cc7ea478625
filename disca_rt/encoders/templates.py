"""The words around a prompt, letter by letter as the models were trained with them.

From hyvideo/constants.py of HunyuanVideo and HunyuanVideo-I2V, and
hyvideo/models/text_encoders/__init__.py of HunyuanVideo-1.5. `{}` is where the prompt goes.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

HOW_TO_LOAD_LLAMA = (
    "load it with transformers.PreTrainedTokenizerFast.from_pretrained, from the folder that holds "
    "this model's tokenizer.json"
)
HOW_TO_LOAD_QWEN = (
    "load that of Qwen2.5-VL-7B-Instruct with transformers.AutoTokenizer.from_pretrained"
)


@dataclass(frozen=True)
class PlainTemplate:
    """Template that is a text; `crop` tokens come before the prompt where `rows` are known."""

    text: str
    crop: int
    rows: int = 128320  # of the embedding of the Llama 3 that both LLaVA folders hold
    has_begin: bool = True  # the tokenizer puts its begin mark first, if it has one
    how_to_load: str = HOW_TO_LOAD_LLAMA
    is_plain = True

    def rendered(self, tokenizer: Any) -> str:
        """Text with `{}` for the prompt."""
        return self.text


@dataclass(frozen=True)
class ChatTemplate:
    """Template that a tokenizer's own chat template makes of `system` and a prompt."""

    system: str
    crop: int
    rows: int = 152064  # of Qwen2.5-VL-7B
    has_begin: bool = False
    how_to_load: str = HOW_TO_LOAD_QWEN
    is_plain = False

    def rendered(self, tokenizer: Any) -> str:
        """Text with `{}` for the prompt, by a tokenizer that has a chat template."""
        messages = [
            {"role": "system", "content": self.system},
            {"role": "user", "content": "{}"},
        ]
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


Template = PlainTemplate | ChatTemplate


class Wording(NamedTuple):
    """Templates of a video and of a single frame, and the authors' own negative prompt."""

    video: Template
    frame: Template
    negative: str


_SYSTEM = "<|start_header_id|>system<|end_header_id|>\n\n"
_USER = "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
_ASSISTANT = "<|start_header_id|>assistant<|end_header_id|>\n\n"
_ASPECTS = (
    "1. The main content and theme of the video."
    "2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects."
    "3. Actions, events, behaviors temporal relationships, physical movement changes of the "
    "objects."
    "4. background environment, light, style and atmosphere."
    "5. camera angles, movements, and transitions used in the video:<|eot_id|>"
)
VIDEO = PlainTemplate(
    f"{_SYSTEM}Describe the video by detailing the following aspects: {_ASPECTS}{_USER}", crop=95
)
IMAGE = PlainTemplate(
    f"{_SYSTEM}Describe the image by detailing the color, shape, size, texture, quantity, text, "
    f"spatial relationships of the objects and background:<|eot_id|>{_USER}",
    crop=36,
)
IMAGE_TO_VIDEO = PlainTemplate(
    f"{_SYSTEM}<image>\nDescribe the video by detailing the following aspects according to the "
    f"reference image: {_ASPECTS}\n\n{_USER}{_ASSISTANT}",
    crop=103,  # the image as one token
)
# Items are apart by a blank and eight more: the authors' text goes on over lines of their source.
VIDEO_15 = ChatTemplate(
    "You are a helpful assistant. Describe the video by detailing the following aspects: "
    "        1. The main content and theme of the video. "
    "        2. The color, shape, size, texture, quantity, text, and spatial relationships of the "
    "objects. "
    "        3. Actions, events, behaviors temporal relationships, physical movement changes of "
    "the objects. "
    "        4. background environment, light, style and atmosphere. "
    "        5. camera angles, movements, and transitions used in the video.",
    crop=108,
)

NEGATIVE = (
    "Aerial view, aerial view, overexposed, low quality, deformation, a poor composition, bad "
    "hands, bad teeth, bad eyes, bad limbs, distortion"
)
NEGATIVE_IMAGE_TO_VIDEO = (
    "deformation, a poor composition and deformed video, bad teeth, bad eyes, bad limbs"
)
TEXT_TO_VIDEO_10 = Wording(VIDEO, IMAGE, NEGATIVE)
IMAGE_TO_VIDEO_10 = Wording(IMAGE_TO_VIDEO, IMAGE_TO_VIDEO, NEGATIVE_IMAGE_TO_VIDEO)
