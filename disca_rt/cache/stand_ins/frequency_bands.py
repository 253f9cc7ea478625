"""FasterCache's unconditional pass: the conditional one's, and their last difference in two bands.

Low are the frequencies of a latent frame within a radius of min(H, W) // 5. The split is linear and
the difference real, so that a step that keeps one takes its spectrum once, and a stand-in is a sum
of three tensors. Authors and diffusers keep the two spectra and add there: the same values.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...config import DiTConfig
from ...kernels.ops import Ops
from ..options import check_factor
from ..site import Level
from ..stand_in import Kept, Moment, StandInDefaults, TensorSpec


@dataclass(frozen=True)
class FrequencyBands(StandInDefaults):
    """u = c + a₁ᵏ·low(u − c) + a₂ˡ·high(u − c) (FasterCache, arXiv 2410.19355, eq. 9 to 11).

    k and l are the second and third of a plan's scalars: the skipped steps in which a factor was
    applied. Factors compound over them in both programs; the paper applies each once.
    """

    takes = "weights"
    levels: ClassVar[tuple[Level, ...]] = ("guidance",)
    reads_to_keep: ClassVar[bool] = False
    ops: Ops
    config: DiTConfig
    alpha_low_frequency: float = 1.1
    alpha_high_frequency: float = 1.1

    def __post_init__(self) -> None:
        for name in ("alpha_low_frequency", "alpha_high_frequency"):
            check_factor(name, getattr(self, name))

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        """The two bands in fp32."""
        return (like._replace(shape=(2, *like.shape), dtype=torch.float32),)

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        """The bands' factors; of a rule that tells nothing, as if applied in every skipped step."""
        skipped = step - kept_at[-1] if kept_at else 0
        low, high = given[1:] if given else (skipped, skipped)
        return self.alpha_low_frequency**low, self.alpha_high_frequency**high

    def out(self, kept: Kept) -> Tensor | None:
        """None: the bands need the conditional pass beside the value."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        (bands,), patch, grid = kept, self.config.patch, at.context.layout.grid
        difference = value.float() - at.entering.float()
        frames = self.ops.unpatchify(difference, grid, patch)
        bands[0].copy_(patchify(low_frequencies(frames), patch))
        torch.sub(difference, bands[0], out=bands[1])

    def value(self, kept: Kept, at: Moment) -> Tensor:
        change = self.ops.forecast(kept[0], at.numbers)
        return (at.entering.float() + change).to(at.entering.dtype)


def low_frequencies(frames: Tensor) -> Tensor:
    """The part of `frames [..., H, W]` fp32 at frequencies up to a radius of min(H, W) // 5."""
    height, width = frames.shape[-2:]
    rows, columns = (
        torch.fft.fftfreq(side, 1 / side, device=frames.device) for side in (height, width)
    )
    radius = min(height, width) // 5
    is_low = rows[:, None].square() + columns.square() <= radius**2
    return torch.fft.ifft2(torch.fft.fft2(frames) * is_low).real


def patchify(latents: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """`[B, C, T·p, H·q, W·r]` to patches `[B, T·H·W, C·p·q·r]`, as the head gives them."""
    p, q, r = patch
    apart = latents.unflatten(4, (-1, r)).unflatten(3, (-1, q)).unflatten(2, (-1, p))
    return apart.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)
