"""Edits of a request: the mask as tokens, and the original at the noise levels of its steps."""

import torch
from torch import Tensor

from ..cache.token_mask import TokenMask
from ..config import DiTConfig
from ..models.prepared import Edit
from ..vae.codec import Codec
from ..vae.sizes import VideoSizes
from .load import Facts
from .masks import read_mask, token_mask
from .request import Request
from .subject import sides_of


def edit_mask_of(request: Request, facts: Facts, sizes: Codec | VideoSizes) -> TokenMask | None:
    """The tokens that a request makes anew; None without an edit.

    ValueError where the video to edit or the mask do not fit the request's size and the model.
    """
    if request.edit is None:
        return None
    latents, config = sides_of(request, sizes), facts.config
    batch = request.conditioning.batch if request.prompts is None else len(request.prompts)
    wanted, got = [batch, config.in_channels, *latents], [*request.edit.shape]
    if got != wanted:
        raise ValueError(f"edit must be latents of this model and size, {wanted}, got {got}")
    if isinstance(request.mask, TokenMask):
        return _of_grid(request.mask, config.token_grid(latents))
    config.token_grid(latents)
    lost, grow = facts.lost_frames, request.mask_grow
    size = sizes.video_size(*latents)
    return token_mask(_white(request), size, latents, config.patch, lost_frames=lost, grow=grow)


def edit_of(request: Request, noise: Tensor, config: DiTConfig) -> Edit:
    """The edit of a request whose mask is one of tokens, on the device of the sample's `noise`."""
    rows = request.mask.tensor()
    cells = rows > 0
    for dim, size in enumerate(config.patch):
        cells = cells.repeat_interleave(size, dim)
    place = noise.device
    original = request.edit.to(place, torch.float32)
    return Edit(original, noise.float(), cells.to(place), rows.flatten().to(place))


def _white(request: Request) -> Tensor:
    """The mask's pixels, bool `[F, H, W]` or `[H, W]`."""
    mask = request.mask
    if not isinstance(mask, Tensor):
        return read_mask(mask)
    if mask.ndim not in (2, 3) or mask.is_complex() or not mask.numel():
        raise ValueError(f"mask must be pixels [F, H, W] or [H, W], got {[*mask.shape]}")
    return mask > (127 if mask.dtype == torch.uint8 else 0.5) if mask.dtype != torch.bool else mask


def _of_grid(mask: TokenMask, grid: tuple[int, int, int]) -> TokenMask:
    if mask.grid != grid or not mask.count():
        raise ValueError(
            f"mask must be of {grid} tokens, some of them chosen, got {mask.count()} of {mask.grid}"
        )
    return mask
