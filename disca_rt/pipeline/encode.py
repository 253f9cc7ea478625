"""The conditioning stage: prompts, and perhaps a picture, become the inputs of the DiT.

Encoders and the VAE are used one after the other; neither is needed once this stage has ended.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ..conditioning import Conditioning
from ..config import DiTConfig
from ..encoders.text import TextEncoder
from ..errors import OneLineWarning
from ..vae.codec import Codec
from ..vae.sizes import SIZES
from .fit import latent_shape
from .images import CropRule, cover, read_image, to_video
from .request import Request
from .residency import Held

Task = Literal["t2v", "i2v"]


class PromptCut(OneLineWarning):
    """Warning that an encoder does not see the whole of a prompt."""


@dataclass(frozen=True)
class Encoding:
    """Parts that turn the prompts and the picture of a request into conditionings.

    `task` is what the DiT was trained for, None where that is not known; `crop` names the rule by
    which a picture is cut to the video's size.
    """

    config: DiTConfig
    text_encoder: Held[TextEncoder | None]
    codec: Held[Codec | None]
    task: Task | None = None
    crop: CropRule = "official"

    def encode(self, request: Request, is_mixed: bool) -> Request:
        """Put conditionings in the place of prompts and picture; two of them if `is_mixed`.

        ValueError where model and picture do not go together, or a prompt cannot be encoded.
        """
        self.check(request)
        sizes = self.codec.loaded or SIZES[self.config.family]
        frames, height, width = sizes.video_size(*latent_shape(request)[1:])
        picture = None
        if request.image is not None:
            picture = cover(read_image(request.image), height, width, self.crop)
        with self.text_encoder.used() as encode:
            prompts = _Prompts(encode, picture, frames)
            positive, negative = prompts.encode(request, is_mixed)
        added = self._picture_tensors(request, picture, positive.batch)
        positive = replace(positive, **added)
        negative = None if negative is None else replace(negative, **added)
        done = {"prompts": None, "negative_prompt": "", "image": None}
        return replace(request, **done, conditioning=positive, negative=negative)

    def check(self, request: Request) -> None:
        """Raise ValueError where model and picture do not go together."""
        title = self.config.traits.title
        if request.image is not None and (self.task == "t2v" or not self._takes_picture()):
            raise ValueError(
                f"image: this {title} is a text-to-video model; leave the image out, or give the "
                "folder or variant of an image-to-video model"
            )
        if request.image is None and self.task == "i2v":
            raise ValueError(f"this {title} is an image-to-video model; give an image (--image)")

    def _takes_picture(self) -> bool:
        return self.config.embed_channels > self.config.in_channels

    def _picture_tensors(
        self, request: Request, picture: Image.Image | None, batch: int
    ) -> dict[str, Tensor]:
        """Tensors of a conditioning that the VAE makes: zeros for text-to-video."""
        channels = self.config.embed_channels - self.config.in_channels
        if not channels:
            return {}
        latents = None
        if picture is not None:
            with self.codec.used() as codec:
                latents = codec.encode(to_video(picture)).float().cpu()
        shape = batch, channels, *latent_shape(request)[1:]
        return {"cond_latents": condition_latents(shape, self.config.in_channels, latents)}


def condition_latents(shape: Sequence[int], latent_channels: int, picture: Tensor | None) -> Tensor:
    """Condition latents of `shape` [B, n, T, H, W]: a picture in the first frame, zeros after it.

    Of the n channels the first C = `latent_channels` hold `picture` [1, C, 1, H, W]; one more,
    where there is one, marks frames that are given. Without a picture all are zero (text-to-video).
    """
    condition = torch.zeros(tuple(shape))
    if picture is not None:
        condition[:, :latent_channels, :1] = picture
        condition[:, latent_channels:, :1] = 1
    return condition


class _Prompts(NamedTuple):
    """What encoders are given beside the texts: the picture, and how many frames there will be."""

    encoder: TextEncoder
    picture: Image.Image | None
    frames: int

    def encode(self, request: Request, is_mixed: bool) -> tuple[Conditioning, Conditioning | None]:
        """Encode prompts and, if `is_mixed`, as many negative ones; says first what is cut."""
        prompts = list(request.prompts)
        negatives = [request.negative_prompt] * len(prompts) if is_mixed else []
        distinct = list(dict.fromkeys(prompts + negatives))
        for line in self.encoder.check(distinct, frames=self.frames):
            warnings.warn(line, PromptCut, stacklevel=2)
        encode = partial(self.encoder, image=self.picture, frames=self.frames)
        negative = encode(negatives, negative=True) if is_mixed else None
        return encode(prompts), negative
