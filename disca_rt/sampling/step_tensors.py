"""The tensors that go into a step and come out of it; a graph copies them in, and keeps them."""

from typing import NamedTuple

from torch import Tensor

from ..cache.decision_network import Network
from .ahead import StepRow


class StepTensors(NamedTuple):
    """Tensors that a step reads: `latents`, its scalars, and the slots' (None: they have none).

    `head [C]` is what a probe of a score applies, `network` what those of "wanted" do.
    """

    latents: Tensor
    row: StepRow
    numbers: Tensor | None
    head: Tensor | None = None
    network: Network | None = None


class Look(NamedTuple):
    """One measurement: both sums of the norm `[2]` on this rank, and the tensor to compare with."""

    sums: Tensor
    now: Tensor | None


class Outcome(NamedTuple):
    """The latents after a step, and what the probes that its plan watches saw, in order."""

    latents: Tensor
    looks: tuple[Look, ...]
