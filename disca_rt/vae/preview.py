"""A cheap look at latents: a linear map to RGB, fitted from a codec, without weights of its own.

Made-up pictures are encoded, and their pixels, averaged over what one latent stands for, are
regressed on the latents and a constant. Of a decode it has the colours and the composition.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from .codec import Codec

PICTURES = 32
HELD_OUT = 8  # of them, on which the fit is judged
LATENTS = 8  # along each side of a picture, and two in time
PATCHES = 12


@dataclass(frozen=True)
class Preview:
    """Linear map of latents to RGB: `weight [C, 3]` and `bias [3]`, fp32.

    `r_squared` is the share of the variance of pictures it was not fitted to that it explains.
    The picture of each step, through a callback:

        preview = pipeline.preview()

        def show(event):
            frames = preview(event.latents[0])  # [3, T', H', W'] in [0, 1], noise and all

        pipeline.generate("a cat walks on the grass", on_step=show)
    """

    weight: Tensor
    bias: Tensor
    r_squared: float
    time_factor: int
    side_factor: int

    def __call__(self, latents: Tensor) -> Tensor:
        """Turn one sample's latents `[C, T, H, W]` into frames `[3, T', H', W']` in [0, 1].

        As many and as large as a decode's, on the latents' device; a latent's frames are alike.
        """
        if latents.ndim != 4 or len(latents) != len(self.weight):
            shape = f"[{len(self.weight)}, T, H, W]"
            raise ValueError(f"latents must be {shape}, one sample, got {list(latents.shape)}")
        weight, bias = self.weight.to(latents.device), self.bias.to(latents.device)
        colours = torch.einsum("cthw,cr->trhw", latents.float(), weight) + bias[:, None, None]
        larger = interpolate(colours, scale_factor=self.side_factor, mode="bilinear").clamp(0, 1)
        repeats = torch.full((len(larger),), self.time_factor, device=latents.device)
        repeats[0] = 1
        return larger.repeat_interleave(repeats, dim=0).transpose(0, 1)


def fit_preview(codec: Codec, seed: int = 0) -> Preview:
    """Fit a preview by encoding small made-up clips with `codec`; deterministic in `seed`."""
    frames, height, width = codec.video_size(2, LATENTS, LATENTS)
    time_factor, side_factor = frames - 1, height // LATENTS
    generator = torch.Generator().manual_seed(seed)
    inputs, colours = [], []
    for index in range(PICTURES):
        video = KINDS[index % len(KINDS)](frames, height, width, generator).clamp(0, 1)
        latents = codec.encode(video[None])[0].double().cpu()  # [C, 2, h, w]
        inputs.append(latents.flatten(1).T)
        colours.append(_averaged(video, side_factor).flatten(1).T)
    fitted = PICTURES - HELD_OUT
    solution = _solve(torch.cat(inputs[:fitted]), torch.cat(colours[:fitted]))
    r_squared = _r_squared(solution, torch.cat(inputs[fitted:]), torch.cat(colours[fitted:]))
    weight, bias = solution[:-1].float(), solution[-1].float()
    return Preview(weight, bias, r_squared, time_factor, side_factor)


def gradients(frames: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Clip `[3, T, H, W]` of a colour for each corner, and for each at the end."""
    corners = torch.rand(1, 3, 2, 2, 2, generator=generator)
    size = frames, height, width
    return interpolate(corners, size=size, mode="trilinear", align_corners=True)[0]


def noise(frames: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Clip `[3, T, H, W]` of noise around one colour, of blobs that are larger or smaller."""
    mean, cells = (torch.rand(3, 1, 1, 1, generator=generator) for _ in range(2))
    coarse = max(2, int(cells[0] * height))
    fine = torch.randn(1, 3, frames, coarse, coarse, generator=generator) * 0.25
    return interpolate(fine, size=(frames, height, width), mode="trilinear")[0] + mean


def patches(frames: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Still clip `[3, T, H, W]` of rectangles of one colour each, later ones in front."""
    video = torch.rand(3, 1, 1, 1, generator=generator).repeat(1, frames, height, width)
    for _ in range(PATCHES):
        colour, *corners = torch.rand(5, 3, generator=generator)[:, :, None, None, None]
        top, left = int(corners[0][0] * height), int(corners[1][0] * width)
        bottom, right = top + 1 + int(corners[2][0] * height), left + 1 + int(corners[3][0] * width)
        video[:, :, top:bottom, left:right] = colour
    return video


KINDS = (gradients, noise, patches)


def _averaged(video: Tensor, side_factor: int) -> Tensor:
    """Mean colour `[3, 2, h, w]` of what each latent stands for: one frame, then all others."""
    pooled = avg_pool2d(video.double().transpose(0, 1), side_factor).transpose(0, 1)
    return torch.stack((pooled[:, 0], pooled[:, 1:].mean(dim=1)), dim=1)


def _with_constant(latents: Tensor) -> Tensor:
    return torch.cat((latents, latents.new_ones(len(latents), 1)), dim=1)


def _solve(latents: Tensor, colours: Tensor) -> Tensor:
    """Least squares `[C + 1, 3]`; the driver takes latents of which some depend on others."""
    return torch.linalg.lstsq(_with_constant(latents), colours, driver="gelsd").solution


def _r_squared(solution: Tensor, latents: Tensor, colours: Tensor) -> float:
    wrong = (_with_constant(latents) @ solution - colours).square().sum()
    return 1 - float(wrong / (colours - colours.mean(dim=0)).square().sum())
