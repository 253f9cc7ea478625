"""Request for a sample: one frozen value, checked as far as that needs no model."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from ..cache.options import check_int
from ..cache.policy import Policy
from ..cache.token_mask import TokenMask
from ..conditioning import Conditioning
from ..schedule import Preset, Schedule
from .noise import NOISE_RULES, NoiseRule

if TYPE_CHECKING:
    from PIL.Image import Image

SEEDS = range(-(2**63), 2**63)  # what a generator takes
# Fields -> their types, and how people are told them; many may be None.
KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "schedule": ((Schedule, Preset), "a Schedule or a Preset"),
    "policy": ((str, Policy), "a policy or its name"),
    "conditioning": ((Conditioning,), "a Conditioning"),
    "negative": ((Conditioning,), "a Conditioning"),
    "latents": ((Tensor,), "a tensor"),
    "edit": ((Tensor,), "a tensor"),
    "mask": ((Tensor, str, Path, TokenMask), "a tensor, or a file or folder"),
    "seed": ((Integral, Sequence), "a whole number, or one a sample"),
    "image_share": ((Real,), "a number"),
    "guidance_scale": ((Real,), "a number"),
    "classifier_free_scale": ((Real,), "a number"),
}
REQUIRED = "schedule", "policy", "seed"
Decide = Literal["together", "per-sample"]
SIDES = {"size": "(frames, height, width)", "latent_shape": "(C, T, H, W)"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """Sample that is asked for: of prompts or a conditioning, from a size or given noise.

    `schedule` and `policy` say at which noise levels and with which cache: a preset's step list is
    that of a policy which follows one; a policy is an object, or a text such as
    "taylor:order=2,interval=5". One sample per prompt or per row of `conditioning`, which
    `negative_prompt` or `negative` steer away from.

    Exactly one of `size`, (frames, height, width) in pixels; `latent_shape`, (C, T, H, W); and
    `latents`, the initial noise `[B, C, T, H, W]`. Noise is drawn from `seed`: row i from
    `seed + i`, or from the i-th of several. It is drawn in fp32 on the CPU, so that neither the
    batch nor the device changes it, unless `noise` asks for diffusers' or the official rules.

    `image`, a picture or its file, becomes the first frame; it goes with prompts, and with models
    that make videos from images. It is resized and cut to the video's size. `image_share` of its
    latents is mixed into the noise, for a steadier video; the authors of 1.0 suggest 0.001.

    `edit` are the clean latents `[B, C, T, H, W]` of a video to be changed where `mask` is white,
    by the prompts or the conditioning: the rest of them comes out as it was, bit for bit. The mask
    is a picture, a video or a folder of frames of the video's size, or such pixels as a tensor
    `[F, H, W]` or `[H, W]`, white above half of 1, or of 255 where they are uint8. It is widened to
    whole tokens, and by `mask_grow` more to each side.
    Without a size the video's is taken. Noise levels that begin below 1 begin with the original
    noised so far. Policy "edit" computes the rows of the mask alone between full steps.

    `guidance_scale` is the embedded scale where the model takes one (default 6.0), else that of
    classifier-free guidance, which needs the negative side: `negative` (then by default 6.0) or,
    with prompts, `negative_prompt`, by default the empty one. `classifier_free_scale` asks for
    classifier-free guidance by name, also beside an embedded scale.

    `decide` is for a batch under a policy that decides by what it measures. "per-sample" runs one
    sample after the other, so that each is bit for bit what it is alone; it is the default with
    such policies. "together" runs them in one batch, as the authors of most methods do: one
    decision for all, so that a sample depends on which others are beside it. Policies whose plans
    are known run together, unless "per-sample" is asked for.

    Raises ValueError naming the first field that contradicts another or is out of range.
    """

    schedule: Schedule | Preset
    policy: str | Policy
    prompts: Sequence[str] | None = None
    conditioning: Conditioning | None = None
    negative_prompt: str = ""
    negative: Conditioning | None = None
    size: tuple[int, int, int] | None = None
    latent_shape: tuple[int, int, int, int] | None = None
    latents: Tensor | None = None
    image: "Image | str | Path | None" = None
    seed: int | Sequence[int] = 0
    noise: NoiseRule | None = None
    image_share: float | None = None
    guidance_scale: float | None = None
    classifier_free_scale: float | None = None
    decide: Decide | None = None
    edit: Tensor | None = None
    mask: Tensor | str | Path | TokenMask | None = None
    mask_grow: int = 1

    def __post_init__(self) -> None:
        self._check_kinds()
        self._check_edit()
        if (self.prompts is None) == (self.conditioning is None):
            raise ValueError("give either prompts or a conditioning, not both and not neither")
        if self.prompts is not None:
            _check_prompts(self.prompts)
        if self.prompts is None and self.negative_prompt:
            raise ValueError("negative_prompt goes with prompts; give a negative conditioning")
        if self.prompts is not None and self.negative is not None:
            raise ValueError("negative goes with a conditioning; give a negative_prompt")
        if self.prompts is None and self.image is not None:
            raise ValueError("image goes with prompts; a conditioning has its picture already")
        if self.image_share is not None and not 0 <= self.image_share < 1:
            raise ValueError(f"image_share must be from 0 to below 1, got {self.image_share}")
        if self.noise not in (None, *NOISE_RULES):
            raise ValueError(f"noise must be one of {sorted(NOISE_RULES)}, got {self.noise!r}")
        if self.decide not in (None, *get_args(Decide)):
            raise ValueError(f"decide must be one of {[*get_args(Decide)]}, got {self.decide!r}")
        given = [n for n in ("latents", "latent_shape", "size") if getattr(self, n) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none of them"
            raise ValueError(f"give either latents or latent_shape or size, got {got}")
        for name in ("guidance_scale", "classifier_free_scale"):
            scale = getattr(self, name)
            if scale is not None and not 0 <= scale < float("inf"):
                raise ValueError(f"{name} must be a finite number from 0, got {scale}")
        self.seeds(1 if isinstance(self.seed, Integral) else len(self.seed))

    def _check_edit(self) -> None:
        """Check `edit` and what goes with it; its size is the sample's where none is given."""
        check_int("mask_grow", self.mask_grow, 0)
        if (self.edit is None) != (self.mask is None):
            given, missing = ("mask", "edit") if self.edit is None else ("edit", "mask")
            raise ValueError(f"{given} goes with {missing}: give both, or neither")
        if self.edit is None:
            return
        if self.edit.ndim != 5 or not self.edit.is_floating_point() or not self.edit.numel():
            kind = str(self.edit.dtype).removeprefix("torch.")
            raise ValueError(
                f"edit must be latents, floats [B, C, T, H, W], got {kind} {[*self.edit.shape]}"
            )
        if not torch.isfinite(self.edit).all():
            raise ValueError("edit has values that are not finite; give the latents of a video")
        if all(each is None for each in (self.latents, self.latent_shape, self.size)):
            object.__setattr__(self, "latent_shape", tuple(self.edit.shape[1:]))

    def _check_kinds(self) -> None:
        for name, (types, wanted) in KINDS.items():
            value = getattr(self, name)
            if (value is not None or name in REQUIRED) and not isinstance(value, types):
                raise ValueError(f"{name} must be {wanted}, got a {type(value).__name__}")
        if not (
            self.image is None or isinstance(self.image, str | Path) or _is_picture(self.image)
        ):
            kind = type(self.image).__name__
            raise ValueError(f"image must be a picture or its file, got a {kind}")
        for name, wanted in SIDES.items():
            sides = getattr(self, name)
            are_whole = sides is None or all(isinstance(side, Integral) for side in sides)
            if not are_whole or (name == "size" and sides is not None and len(sides) != 3):
                raise ValueError(f"{name} must be whole numbers {wanted}, got {sides}")

    @property
    def conditionings(self) -> list[Conditioning]:
        """Conditionings of a step's passes, once prompts are encoded: positive, then negative."""
        return [each for each in (self.conditioning, self.negative) if each is not None]

    def seeds(self, batch: int) -> list[int]:
        """Seed of each of `batch` samples; ValueError for too few, or one out of range."""
        is_first = isinstance(self.seed, Integral)
        seeds = [int(self.seed) + i for i in range(batch)] if is_first else list(self.seed)
        if len(seeds) != batch:
            raise ValueError(f"seed must be one number or {batch}, one a sample, got {seeds}")
        for seed in seeds:
            if seed not in SEEDS:
                raise ValueError(f"seed must be from {SEEDS.start} to {SEEDS.stop - 1}, got {seed}")
        return seeds


def _is_picture(given: object) -> bool:
    from PIL.Image import Image

    return isinstance(given, Image)


def _check_prompts(prompts: Sequence[str]) -> None:
    if isinstance(prompts, str) or not prompts or not all(isinstance(p, str) for p in prompts):
        raise ValueError(f"prompts must be a list of at least one text, got {prompts!r}")
