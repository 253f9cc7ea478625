"""Prompts of HunyuanVideo 1.5: states of Qwen2.5-VL, glyphs of quoted text, states of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..conditioning import Conditioning
from ..family import VIDEO_15
from . import templates
from .glyphs import LENGTH as GLYPH_LENGTH
from .glyphs import Glyphs, encode_glyphs, lost_glyphs
from .language import cut, rows_of, token_states
from .prompts import PromptTokenizer, Tokens, cut_line, padded
from .rules import DISCA, EncodingRules
from .vision import WIDTH, check_processor, image_states, image_tokens

if TYPE_CHECKING:
    from PIL.Image import Image

LENGTH = 1000  # tokens after the template's, those at its end included


class Prompts15:
    """Prompts of 1.5 as tokens; needs no network, so that prompts are checked before one loads."""

    def __init__(self, tokenizer: Any, tokenizer_2: Any, rules: EncodingRules = DISCA) -> None:
        self.rules, self.tokenizer_2 = rules, tokenizer_2
        self.template = PromptTokenizer(tokenizer, templates.VIDEO_15)
        self.length = LENGTH + self.template.crop

    def texts(self, prompts: Sequence[str]) -> list[str]:
        """Prompts as the networks get them; ValueError for one that cannot be encoded."""
        return self.template.texts(prompts, strips=VIDEO_15.name in self.rules.strips)

    def check(self, prompts: Sequence[str], *, frames: int | None = None) -> list[str]:
        """A line for each prompt that Qwen does not see whole, or byT5 its quoted text."""
        limit, lines = LENGTH - len(self.template.end), []
        for text in self.texts(prompts):
            lost, glyphs = self.tokens(text).lost, lost_glyphs(self.tokenizer_2, text)
            if lost is not None:
                lines.append(cut_line(text, lost, limit))
            if glyphs:
                lines.append(cut_line(text, glyphs, GLYPH_LENGTH - 1, "quoted text of "))
        return lines

    def tokens(self, text: str) -> Tokens:
        """Tokens of one text, a blank in place of an empty one, in the template."""
        return self.template.tokens(text or " ", self.length, keeps_end=self.rules.keeps_end)


class Encoder15:
    """Encoder of HunyuanVideo 1.5.

    `qwen` is a Qwen2_5_VLTextModel, whole or cut (`language.cut`), `byt5` a T5EncoderModel;
    `siglip`, a SiglipVisionModel with its image processor, only for image to video. Each stays on
    its device and in its dtype, as do its states. `vision_width` is the DiT's, for the zeros of a
    text-to-video model. Raises ValueError, with the right way to load it, for a tokenizer that is
    not this model's.
    """

    picture = "cut"

    def __init__(
        self,
        qwen: nn.Module,
        tokenizer: Any,
        byt5: nn.Module,
        tokenizer_2: Any,
        siglip: nn.Module | None = None,
        processor: Any = None,
        *,
        vision_width: int = WIDTH,
        rules: EncodingRules = DISCA,
    ) -> None:
        self.qwen, self.byt5, self.tokenizer_2 = cut(qwen), byt5, tokenizer_2
        self.siglip, self.processor, self.vision_width = siglip, processor, vision_width
        self.prompts, self.rules = Prompts15(tokenizer, tokenizer_2, rules), rules
        self.prompts.template.check_rows(rows_of(qwen))
        known, rows = len(tokenizer_2), rows_of(byt5)
        if known > rows:
            way_out = "transformers.ByT5Tokenizer() needs no file"
            raise ValueError(f"tokenizer_2 has {known} tokens, and byT5 {rows}; {way_out}")
        if siglip is not None:
            check_processor(siglip, processor)

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
        """`text_states [B, 1000, 3584]`, `byt5_text_states [B, 256, 1472]`, each with its mask.

        `vision_states` are those of `image`, which is as large as the video, or zeros.
        """
        texts = self.prompts.texts(prompts)
        text_states, text_mask = self._text_states(texts)
        glyphs = self._glyphs(texts, negative)
        return Conditioning(
            text_states=text_states,
            text_mask=text_mask,
            byt5_text_states=glyphs.states,
            byt5_text_mask=glyphs.mask,
            vision_states=self._vision_states(image, text_states),
        )

    def _text_states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        template = self.prompts.template
        rows = [self.prompts.tokens(text).ids for text in texts]
        batch = padded(rows, template.pad, self.prompts.length)
        states = token_states(self.qwen, batch, runs_padding=self.rules.runs_padding)
        return states[:, template.crop :], batch.mask[:, template.crop :].to(states.device)

    def _glyphs(self, texts: Sequence[str], negative: bool) -> Glyphs:
        if negative and not self.rules.negative_glyphs:
            texts = [""] * len(texts)
        return encode_glyphs(self.byt5, self.tokenizer_2, texts)

    def _vision_states(self, image: Image | None, text_states: Tensor) -> Tensor:
        batch = len(text_states)
        if image is None:
            shape = batch, image_tokens(self.siglip), self.vision_width
            return torch.zeros(shape, device=text_states.device, dtype=text_states.dtype)
        if self.siglip is None:
            raise ValueError("image needs an image_encoder (SigLIP), which this model has not")
        return image_states(self.siglip, self.processor, image).repeat(batch, 1, 1)
