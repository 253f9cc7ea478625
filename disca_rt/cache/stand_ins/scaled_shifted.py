"""Block Caching's stand-in: a block's last change, with a trained scale and shift by channel."""

from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from ...config import DiTConfig
from ..adjustment_file import read_adjustment
from ..learned_file import check_steps
from ..options import File
from ..site import Site
from ..stand_in import Kept, Moment
from .reuse import Change


@dataclass(frozen=True)
class ScaledShifted(Change):
    """Tokens x that enter a block, as x + s·C + b, C its kept change (arXiv 2312.03209).

    s and b, of each step, block and channel, are in the file `scale_shift`, which train cache
    writes for one table; both passes have the same (choice). Without a file C is reused as it is.
    """

    config: DiTConfig | None = None
    scale_shift: File | None = None
    digest: str = field(init=False, default="")
    steps: int = field(init=False, default=0, repr=False)
    block: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale_shift is None:
            return
        if self.form != "delta":
            raise ValueError(f"scale_shift goes with form=delta, got {self.form}; drop one")
        file = read_adjustment(self.scale_shift, self.config)
        object.__setattr__(self, "digest", file.digest)
        object.__setattr__(self, "steps", len(file.computed))

    def at_site(self, site: Site) -> "ScaledShifted":
        """The stand-in for the block of `site`; without a file one is for all."""
        if self.scale_shift is None:
            return self
        own = replace(self)
        object.__setattr__(own, "block", site.start)
        return own

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        """The step's number, by which a row of the file is taken."""
        if self.scale_shift is None:
            return ()
        if step >= self.steps:  # under a rule that is not its own
            check_steps(self.scale_shift, self.steps, step + 1)
        return (float(step),)

    def value(self, kept: Kept, at: Moment) -> Tensor:
        if self.scale_shift is None:
            return super().value(kept, at)
        table = _table(self.scale_shift, self.digest, self.config, at.entering.device)
        scale, shift = table[self.block].index_select(0, at.numbers.long())[0]
        return (at.entering + torch.addcmul(shift, kept[0].float(), scale)).to(at.entering.dtype)


@lru_cache(maxsize=2)
def _table(path: str, digest: str, config: DiTConfig, device: torch.device) -> Tensor:
    """Scales and shifts `[blocks, steps, 2, C]` fp32 on `device`."""
    file = read_adjustment(path, config)
    if file.digest != digest:
        raise ValueError(f"{path} has changed since its policy was made; make it again")
    return torch.stack([file.scale, file.shift], dim=2).transpose(0, 1).contiguous().to(device)
