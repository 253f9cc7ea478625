"""Edits of drawn samples."""

import torch
from torch import Tensor

from cache_draws import CONFIG, CPU, OPS, SCALE, Draw, Models
from disca_rt.cache.method import Parts
from disca_rt.cache.policies import build_policy
from disca_rt.cache.token_mask import TokenMask
from disca_rt.instruments.stopwatch import Stopwatch
from disca_rt.models.prepared import Edit
from disca_rt.sampling.guidance import Guidance

MASK = torch.tensor([[[1, 0], [0, 0]], [[0, 1], [1, 0]]])  # of 2x2x2 tokens


def edit_of(draw: Draw, mask: Tensor = MASK) -> Edit:
    original = draw.latents.flip(2) * 2
    cells = (mask > 0).repeat_interleave(2, 1).repeat_interleave(2, 2)
    return Edit(original, draw.latents, cells, mask.flatten().to(torch.uint8))


def edited(
    built: Models, draw: Draw, text: str, mask: Tensor = MASK, watched: bool = False
) -> Tensor:
    """The latents of an edit of a draw by a policy."""
    edit = edit_of(draw, mask)
    with torch.no_grad():
        return built.denoiser.denoise(
            edit.at(draw.schedule.sigmas[0]),
            draw.conditions,
            schedule=draw.schedule,
            policy=build_policy(text, Parts(CONFIG, OPS, edit_mask=TokenMask.of(mask))),
            guidance=Guidance(None, SCALE if draw.guided else None),
            stopwatch=Stopwatch(CPU),
            on_step=(lambda event: None) if watched else None,
            edit=edit,
        )
