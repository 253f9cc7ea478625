"""Attention whose keys and values are partly those of a forward before: for written-out loops."""

import torch

from cache_draws import SCALE, Draw
from disca_rt.attention.local import LocalAttention, LocalHandle
from disca_rt.models.dit import StepInputs
from disca_rt.tokens import TokenLayout


class Mixed(LocalAttention):
    """Attention whose keys and values are, where `mask [S]` is false, those of the call before.

    `kept` are those of each call of a forward, in order; all rows run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.mask: torch.Tensor | None = None
        self.calls = 0

    @property
    def local(self) -> LocalAttention:
        return LocalAttention()  # the refiner's

    def begin(self, layout: TokenLayout) -> "Mixing":
        return Mixing(self, layout)


class Mixing(LocalHandle):
    def __init__(self, mixed: Mixed, layout: TokenLayout) -> None:
        super().__init__(mixed.backend, layout, None)
        self.mixed = mixed

    def result(self, overlap: object) -> torch.Tensor:
        mixed, both = self.mixed, (self._k.clone(), self._v.clone())
        if mixed.mask is not None:
            old = mixed.kept[mixed.calls]
            both = tuple(
                torch.where(mixed.mask[:, None, None], new, before)
                for new, before in zip(both, old, strict=True)
            )
        mixed.kept[mixed.calls : mixed.calls + 1] = [both]
        mixed.calls += 1
        self._k, self._v = both
        return super().result(overlap)


def velocity_of(denoisers: list, draw: Draw, latents: torch.Tensor, step: object) -> torch.Tensor:
    """The guided velocity of whole forwards, each pass by a denoiser of its own."""
    found = []
    for denoiser, condition in zip(denoisers, draw.conditions, strict=True):
        with torch.no_grad():
            prepared = denoiser.dit.prepare(condition, latents.shape)
            inputs = StepInputs(torch.full((len(latents),), step.t))
            found.append(denoiser.dit(latents, inputs, prepared))
    return found[0] if len(found) == 1 else found[1] + SCALE * (found[0] - found[1])
