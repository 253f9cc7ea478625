"""Recorded numbers of all prompts, as arrays that fits take."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Records(NamedTuple):
    """The numbers of each prompt by name, of all runs together; see `record` and `trials`."""

    of_prompts: Sequence[dict[str, Tensor]]

    @property
    def passes(self) -> int:
        """The passes of a step."""
        return 1 + ("guidance/l1" in self.of_prompts[0])

    def has(self, name: str) -> bool:
        """True where every prompt has numbers called `name`."""
        return all(name in each for each in self.of_prompts)

    def names(self, prefix: str) -> list[str]:
        """The names that begin with `prefix`: numbers in them in order, then letters."""
        return sorted((n for n in self.of_prompts[0] if n.startswith(prefix)), key=_by_number)

    def stack(self, name: str) -> np.ndarray:
        """The numbers of each prompt, `[prompts, ...]`."""
        return torch.stack([each[name] for each in self.of_prompts]).numpy()

    def ratios(self, name: str) -> np.ndarray:
        """Numerators over denominators of a quantity, `[prompts, steps]`."""
        sums = self.stack(name)
        with np.errstate(divide="ignore", invalid="ignore"):
            return sums[..., 0] / sums[..., 1]

    def numerators(self, name: str) -> np.ndarray:
        """Numerators of a quantity, `[prompts, steps]`: of "size" the sums of this step."""
        return self.stack(name)[..., 0]

    def sum(self, name: str) -> np.ndarray:
        """The numbers of all prompts added up."""
        return self.stack(name).sum(0)

    def mean(self, name: str) -> np.ndarray:
        """The numbers of all prompts, their mean."""
        return self.stack(name).mean(0)


def _by_number(name: str) -> list[tuple[int, str]]:
    """A key by which "2" comes before "10"."""
    pieces = re.split(r"(\d+)", name)
    return [(int(each), "") if each.isdigit() else (-1, each) for each in pieces]
