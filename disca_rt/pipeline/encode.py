"""The conditioning stage: prompts, and perhaps a picture, become the inputs of the DiT.

Encoders are freed before the VAE, of a picture, is loaded; neither is needed once this stage has
ended.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..encoders.text import PromptCheck, TextEncoder
from ..errors import OneLineWarning
from ..instruments.stopwatch import Stopwatch
from ..vae.codec import Codec
from ..vae.sizes import VideoSizes
from .fit import (
    check_conditionings,
    check_latents,
    draws_picture,
    guidance_of,
    latent_shape,
)
from .load import Facts
from .request import Request
from .residency import Held, is_absent, loaded

if TYPE_CHECKING:
    from PIL.Image import Image


class PromptCut(OneLineWarning):
    """Warning that an encoder does not see the whole of a prompt."""


@dataclass(frozen=True)
class Encoding:
    """Parts that turn the prompts and the picture of a request into conditionings."""

    facts: Facts
    text_encoder: Held[TextEncoder | None]
    codec: Held[Codec | None]

    def conditioned(self, request: Request, stopwatch: Stopwatch) -> Request:
        """Encode the prompts of `request`, turn its size into latents, and check all of it.

        ValueError where model and request do not go together, or a prompt cannot be encoded.
        """
        config = self.facts.config
        if request.prompts is not None:
            self._check_parts(request)
        guidance = guidance_of(request, config)
        if request.size is not None:
            shape = config.in_channels, *self._sizes.latent_shape(*request.size)[1:]
            request = replace(request, size=None, latent_shape=shape)
        if request.prompts is not None:
            check_latents(request, config, len(request.prompts))
            self._check_frames(request)
            is_mixed = guidance.classifier_free is not None
            if self.facts.check_prompts is not None:  # before gigabytes are read
                self._tell_of_cuts(self.facts.check_prompts, request, is_mixed)
            pictures = self._pictures(request)
            with loaded(stopwatch, self.text_encoder), stopwatch.stage("prompts"):
                request = self._encoded(request, is_mixed, pictures)
            request = self._with_picture(request, pictures.cut, stopwatch)
        sides = {"conditioning": request.conditioning, "negative": request.negative}
        cleaned = {name: each and each.without_padding_values() for name, each in sides.items()}
        request = replace(request, **cleaned)
        check_conditionings(request, config)
        return request

    @property
    def _sizes(self) -> Codec | VideoSizes:
        """Size rules: of the codec in memory, else of the family's."""
        return self.codec.loaded or self.facts.sizes

    def _check_parts(self, request: Request) -> None:
        """Raise ValueError where encoders are missing, or model and picture do not go together."""
        config, folder = self.facts.config, self.facts.folder
        if is_absent(self.text_encoder):
            if folder is not None:
                folder.require("text_encoder")
            raise ValueError(
                f"prompts need the text encoders of {config.family}, which this runtime does "
                "not have; give a saved conditioning instead"
            )
        task = None if folder is None else folder.task
        takes_picture = config.condition_channels or config.takes_first_frame
        if request.image is not None and (task == "t2v" or not takes_picture):
            raise ValueError(
                f"image: this {config.traits.title} is a text-to-video model; leave the image out, "
                "or give the folder or variant of an image-to-video model"
            )
        if request.image is not None and is_absent(self.codec):
            if folder is not None:
                folder.require("vae")
            raise ValueError("image needs a VAE, which this runtime does not have")
        if request.image is None and task == "i2v":
            title = config.traits.title
            raise ValueError(f"this {title} is an image-to-video model; give an image (--image)")

    def _frames(self, request: Request) -> int:
        return self._sizes.video_size(*latent_shape(request)[1:])[0]

    def _tell_of_cuts(self, check: PromptCheck, request: Request, is_mixed: bool) -> None:
        """Warn of what encoders will not see; ValueError for a prompt that cannot be encoded."""
        texts = [*request.prompts, *([request.negative_prompt] if is_mixed else [])]
        for line in check(list(dict.fromkeys(texts)), frames=self._frames(request)):
            warnings.warn(line, PromptCut, stacklevel=2)

    def _check_frames(self, request: Request) -> None:
        """Raise ValueError where all frames would be lost, which are no part of the video."""
        frames = self._frames(request)
        if frames <= self.facts.lost_frames:
            raise ValueError(
                f"this model's first {self.facts.lost_frames} frames are no part of the video; "
                f"give at least {self.facts.lost_frames + 1} frames, got {frames}"
            )

    def _pictures(self, request: Request) -> "_Pictures":
        if request.image is None:
            return _Pictures(None, None)
        from .images import cover, read_image

        original = read_image(request.image)
        _, height, width = self._sizes.video_size(*latent_shape(request)[1:])
        rule = self.facts.rules.pictures[self.facts.config.family].crop
        return _Pictures(original, cover(original, height, width, rule))

    def _encoded(self, request: Request, is_mixed: bool, pictures: "_Pictures") -> Request:
        """Put conditionings in the place of prompts and picture; two of them if `is_mixed`."""
        encoder, prompts = self.text_encoder.get(), list(request.prompts)
        if self.facts.check_prompts is None:
            self._tell_of_cuts(encoder.check, request, is_mixed)
        seen = getattr(pictures, encoder.picture) if encoder.picture else None
        encode, negative = partial(encoder, image=seen, frames=self._frames(request)), None
        if is_mixed:
            negative = encode([request.negative_prompt], negative=True).repeated(len(prompts))
        done = {"prompts": None, "negative_prompt": "", "image": None}
        return replace(request, **done, conditioning=encode(prompts), negative=negative)

    def _with_picture(
        self, request: Request, picture: "Image | None", stopwatch: Stopwatch
    ) -> Request:
        """Add to the conditionings what the VAE makes of the picture: zeros, or none, without."""
        latents = None
        if picture is not None:
            with loaded(stopwatch, self.codec), stopwatch.stage("picture"):
                request, latents = self._picture_latents(request, picture)
        added = self._picture_tensors(request, latents)
        positive = replace(request.conditioning, **added)
        negative = None if request.negative is None else replace(request.negative, **added)
        return replace(request, conditioning=positive, negative=negative)

    def _picture_latents(self, request: Request, picture: "Image") -> tuple[Request, Tensor]:
        """Latents `[1, C, 1, h, w]` of a picture; where they are drawn, the noise comes next."""
        from .images import to_video

        codec, video = self.codec.get(), to_video(picture)
        if not draws_picture(request, self.facts.rules, self.facts.config):
            return request, codec.encode(video).float().cpu()
        batch = request.conditioning.batch
        generator = torch.Generator().manual_seed(request.seeds(batch)[0])
        latents = codec.drawn(video, generator).float().cpu()
        if request.latents is None:
            noise = torch.randn((batch, *request.latent_shape), generator=generator)
            request = replace(request, latents=noise, latent_shape=None)
        return request, latents

    def _picture_tensors(self, request: Request, latents: Tensor | None) -> dict[str, Tensor]:
        """Tensors of a conditioning that a picture's latents are in."""
        config, batch = self.facts.config, request.conditioning.batch
        if config.condition_channels:
            shape = batch, config.condition_channels, *latent_shape(request)[1:]
            return {"cond_latents": condition_latents(shape, config.in_channels, latents)}
        if latents is None:
            return {}
        return {"first_frame_latents": latents.expand(batch, *latents.shape[1:])}


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


class _Pictures(NamedTuple):
    """The picture of a request as it was given, and as large as the video; None: there is none."""

    original: "Image | None"
    cut: "Image | None"
