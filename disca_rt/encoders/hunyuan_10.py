"""Prompts of HunyuanVideo 1.0, text to video: states of Llama 3 and a pooled state of CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from ..conditioning import Conditioning
from ..family import VIDEO_10
from .language import cut, rows_of, token_states
from .pooled import check_clip, pooled_states
from .prompts import PromptTokenizer, Tokens, cut_line, padded
from .rules import DISCA, EncodingRules
from .templates import TEXT_TO_VIDEO_10, Wording

if TYPE_CHECKING:
    from PIL.Image import Image

LENGTH = 256  # tokens after the template's, its end mark included


class Prompts10:
    """Prompts of 1.0 as tokens; needs no network, so that prompts are checked before one loads."""

    def __init__(
        self,
        tokenizer: Any,
        rules: EncodingRules = DISCA,
        wording: Wording = TEXT_TO_VIDEO_10,
    ) -> None:
        self.rules, self.wording = rules, wording
        self.video = PromptTokenizer(tokenizer, wording.video)
        self.frame = PromptTokenizer(tokenizer, wording.frame)
        self.length = LENGTH + self.video.crop  # of both, so that the shorter template holds more

    def template(self, frames: int | None) -> PromptTokenizer:
        """Template of a video of `frames`."""
        return self.frame if frames == 1 and self.rules.image_template else self.video

    def texts(self, prompts: Sequence[str], *, negative: bool = False) -> list[str]:
        """Prompts as both networks get them; ValueError for one that cannot be encoded."""
        texts = self.video.texts(prompts, strips=VIDEO_10.name in self.rules.strips)
        unnamed = self.wording.negative if negative and self.rules.names_negative else ""
        return [text or unnamed for text in texts]

    def check(self, prompts: Sequence[str], *, frames: int | None = None) -> list[str]:
        """A line for each prompt that Llama does not see whole; CLIP's 77 tokens are no loss."""
        template = self.template(frames)
        limit = self.length - template.crop - len(template.end)
        losses = [(text, self._tokens(template, text).lost) for text in self.texts(prompts)]
        return [cut_line(text, lost, limit) for text, lost in losses if lost is not None]

    def rows(self, texts: Sequence[str], frames: int | None) -> list[list[int]]:
        """Tokens of each text in the template of a video of `frames`."""
        template = self.template(frames)
        return [self._tokens(template, text).ids for text in texts]

    def _tokens(self, template: PromptTokenizer, text: str) -> Tokens:
        return template.tokens(text, self.length, keeps_end=self.rules.keeps_end)


class Encoder10:
    """Encoder of HunyuanVideo 1.0.

    `llama` is a LlamaModel, whole or cut (`language.cut`), `clip` a CLIPTextModel; each stays on
    its device and in its dtype, as do its states. Raises ValueError, with the right way to load it,
    for a tokenizer that is not this model's.
    """

    picture = None

    def __init__(
        self,
        llama: nn.Module,
        tokenizer: Any,
        clip: nn.Module,
        tokenizer_2: Any,
        rules: EncodingRules = DISCA,
    ) -> None:
        self.llama, self.clip, self.tokenizer_2 = cut(llama), clip, tokenizer_2
        self.prompts, self.rules = Prompts10(tokenizer, rules), rules
        for template in (self.prompts.video, self.prompts.frame):
            template.check_rows(rows_of(llama))
        check_clip(clip, tokenizer_2)

    def check(self, prompts: Sequence[str], *, frames: int | None = None) -> list[str]:
        """A line for each prompt that is cut; ValueError for one that cannot be encoded."""
        return self.prompts.check(prompts, frames=frames)

    def __call__(
        self,
        prompts: Sequence[str],
        image: Image | None = None,
        *,
        frames: int | None = None,
        negative: bool = False,
    ) -> Conditioning:
        """`text_states [B, 256, 4096]` with their mask, and `text_states_2 [B, 768]`.

        A single frame has the image template's `[B, 315, 4096]`. ValueError for an `image`, which
        needs the encoder of `llava.py`.
        """
        if image is not None:
            raise ValueError("image needs a model of image to video; this one takes prompts alone")
        texts = self.prompts.texts(prompts, negative=negative)
        template = self.prompts.template(frames)
        batch = padded(self.prompts.rows(texts, frames), template.pad, self.prompts.length)
        states = token_states(self.llama, batch, runs_padding=self.rules.runs_padding)
        return Conditioning(
            text_states=states[:, template.crop :],
            text_mask=batch.mask[:, template.crop :].to(states.device),
            text_states_2=pooled_states(self.clip, self.tokenizer_2, texts),
        )
