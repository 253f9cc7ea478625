"""Prompts of HunyuanVideo 1.0, image to video: LLaVA's states of a prompt with its picture.

The states are those of the picture's tokens, thinned out, and then those of the prompt's, without
the words that hand over to the assistant; as hyvideo/text_encoder of HunyuanVideo-I2V has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..conditioning import Conditioning
from .hunyuan_10 import Prompts10
from .language import cut, device_of, rows_of, token_states
from .pooled import check_clip, pooled_states
from .prompts import padded
from .rules import DISCA, EncodingRules
from .templates import IMAGE_TO_VIDEO_10

if TYPE_CHECKING:
    from PIL.Image import Image

STRIDES = {"token_replace": 4, "latent_concat": 2}  # of a DiT's kind: it reads every n-th embedding
HEADER = 4  # tokens that are left out: the end mark, and the assistant's name between its two marks
TURNS = 3  # headers in the template: system, user, assistant


class Encoder10Image:
    """Encoder of HunyuanVideo 1.0, image to video.

    `llava` is a LlavaForConditionalGeneration (or its inner model) with its image processor,
    `stride` says which of its image embeddings the DiT reads (`STRIDES`); the rest as
    `hunyuan_10.Encoder10`. Raises ValueError, with the right way to load it, for a tokenizer that
    is not this model's.
    """

    picture = "original"

    def __init__(
        self,
        llava: nn.Module,
        tokenizer: Any,
        clip: nn.Module,
        tokenizer_2: Any,
        processor: Any,
        *,
        stride: int = STRIDES["token_replace"],
        rules: EncodingRules = DISCA,
    ) -> None:
        self.llava = getattr(llava, "model", llava)
        self.llama = cut(self.llava.language_model)
        self.processor, self.clip, self.tokenizer_2 = processor, clip, tokenizer_2
        self.stride, self.rules = stride, rules
        self.prompts = Prompts10(tokenizer, rules, IMAGE_TO_VIDEO_10)
        self.prompts.video.check_rows(rows_of(self.llama))
        self.image_token, self.header_end = (
            tokenizer.convert_tokens_to_ids(mark) for mark in ("<image>", "<|end_header_id|>")
        )
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
        """`text_states [B, 144 + 252, 4096]` with their mask, and `text_states_2 [B, 768]`.

        `image` is the picture as it was given, not cut to the video; the negative side sees a black
        one. ValueError without it.
        """
        if image is None:
            raise ValueError("image is missing, and this is a model of image to video; give one")
        texts = self.prompts.texts(prompts, negative=negative)
        stride = (negative and self.rules.negative_stride) or self.stride
        picture = self._image_embeddings(_black(image) if negative else image)
        states, mask = self._text_states(self.prompts.rows(texts, frames), picture, stride)
        return Conditioning(
            text_states=states,
            text_mask=mask,
            text_states_2=pooled_states(self.clip, self.tokenizer_2, texts),
        )

    def _image_embeddings(self, image: Image) -> Tensor:
        """Embeddings `[N, D]` that stand in the place of the image token; 576 of the real model."""
        config, tower = self.llava.config, self.llava.vision_tower
        pixels = self.processor(images=image, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            pixels = pixels.to(device_of(tower), tower.dtype)
            states = tower(pixel_values=pixels, output_hidden_states=True).hidden_states
            read = states[config.vision_feature_layer]
            if config.vision_feature_select_strategy == "default":
                read = read[:, 1:]  # without the class token
            return self.llava.multi_modal_projector(read)[0]

    def _text_states(
        self, rows: Sequence[list[int]], picture: Tensor, stride: int
    ) -> tuple[Tensor, Tensor]:
        template, added = self.prompts.video, len(picture) - 1
        expanded = [self._expanded(row, len(picture)) for row in rows]
        batch = padded(expanded, template.pad, self.prompts.length + added)

        def embed(ids: Tensor) -> Tensor:
            states = self.llama.get_input_embeddings()(ids)
            places = (ids == self.image_token)[..., None].expand_as(states)
            return states.masked_scatter(places, picture.to(states).repeat(len(ids), 1))

        runs_padding = self.rules.runs_padding
        states = token_states(self.llama, batch, runs_padding=runs_padding, embed=embed)
        read = [torch.tensor(self._read(row, len(picture), stride)) for row in rows]
        kept_states = [row[each.to(states.device)] for row, each in zip(states, read, strict=True)]
        kept_mask = [row[each] for row, each in zip(batch.mask, read, strict=True)]
        return torch.stack(kept_states), torch.stack(kept_mask).to(states.device)

    def _expanded(self, row: list[int], count: int) -> list[int]:
        """Tokens with `count` image tokens in the place of one."""
        place = row.index(self.image_token)
        return row[:place] + [self.image_token] * count + row[place + 1 :]

    def _read(self, row: list[int], count: int, stride: int) -> list[int]:
        """Expanded tokens that the DiT reads of a row; as many of each, padding among them."""
        first, added = row.index(self.image_token), count - 1
        ends = [index for index, token in enumerate(row) if token == self.header_end]
        header = ends[-1] + 1 if len(ends) == TURNS else len(row)  # of a prompt that was cut: none
        picture = range(first, first + count, stride)
        prompt = range(self.prompts.video.crop + added, header + added - HEADER)
        return [*picture, *prompt, *range(header + added, self.prompts.length + added)]


def _black(image: Image) -> Image:
    from PIL import Image as images

    return images.new("RGB", image.size)
