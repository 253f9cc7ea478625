"""Files of what methods learn for their cache: gates, linear heads, a network that decides.

A safetensors file of "gates" `[steps, slots]`, values in [0, 1] of which 1 computes (L2C,
HarmoniCa), of "heads" `[steps, slots, C]` (LazyDiT), of the weights of a `Network`
(BlockDance-Ada), or of an `Adjustment` (Block Caching), fp32. Slots are those of `BranchPairs`. The
metadata say for which model it is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..config import DiTConfig
from .decision_network import Network, network_of, shapes
from .learned_file import digest_of, read_learned, write_learned
from .placements.branches import pairs

FORMAT = "disca_rt branch gates"


class GateFile(NamedTuple):
    """The tensor of a file, and a digest of it, by which two files are told apart."""

    tensor: Tensor
    digest: str

    def check_steps(self, path: str, steps: int) -> None:
        """Raises ValueError where the file at `path` is not for `steps` steps."""
        check_steps(path, len(self.tensor), steps)


class NetworkFile(NamedTuple):
    """The network of a file, the `rho` steps before it decides, and a digest of both."""

    network: Network
    rho: int
    digest: str

    def check_steps(self, path: str, steps: int) -> None:
        """Raises ValueError where the file at `path` is not for `steps` steps."""
        check_steps(path, self.rho + self.network.later, steps)


class Adjustment(NamedTuple):
    """Block Caching's numbers: `scale` and `shift` `[steps, blocks, C]`, and a digest of them.

    `computed[step][block]` says of a step's blocks which are not replaced.
    """

    computed: tuple[tuple[bool, ...], ...]
    scale: Tensor
    shift: Tensor
    digest: str


def read_gates(path: str, kind: str, config: DiTConfig) -> GateFile:
    """The "gates" or the "heads" (`kind`) in a file for a model of these sizes; else ValueError."""
    learned, _ = read_learned(path, FORMAT, kind, (kind,), config)
    _check(path, learned[kind], kind, config)
    return GateFile(learned[kind], digest_of(*learned.values()))


def read_network(path: str, config: DiTConfig) -> NetworkFile:
    """The network in a file for a model of these sizes; else ValueError."""
    learned, metadata = read_learned(path, FORMAT, "weights of a network", Network._fields, config)
    later, rho = len(learned["out_bias"]), metadata.get("rho", "")
    if not rho.isdecimal() or int(rho) < 1 or later < 1:
        raise ValueError(f"{path} must say rho, at least 1, and decide on a step, got rho {rho!r}")
    for name, wanted in shapes(config, later)._asdict().items():
        if learned[name].shape != wanted:
            got = [*learned[name].shape]
            raise ValueError(f"{name} of {path} must be {[*wanted]} for this model, got {got}")
    return NetworkFile(network_of(learned), int(rho), digest_of(*learned.values(), more=rho))


def read_adjustment(path: str, config: DiTConfig) -> Adjustment:
    """The adjustment in a file for a model of these sizes; else ValueError."""
    kinds = "computed", "scale", "shift"
    learned, _ = read_learned(path, FORMAT, "scales and shifts", kinds, config)
    computed = learned["computed"] > 0.5
    blocks, steps = config.double + config.single, len(computed)
    for kind in kinds:
        wanted = [steps, blocks, *[config.hidden] * (kind != "computed")]
        if [*learned[kind].shape] != wanted or not steps:
            got = [*learned[kind].shape]
            raise ValueError(f"{kind} of {path} must be {wanted} for this model, got {got}")
    if not computed[0].all():
        raise ValueError(f"computed of {path} must be 1 in the first step: nothing is kept before")
    rows = tuple(map(tuple, computed.tolist()))
    return Adjustment(rows, learned["scale"], learned["shift"], digest_of(*learned.values()))


def write_gates(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: DiTConfig,
    method: str,
    more: Mapping[str, str] | None = None,
) -> None:
    """A file of what `method` learned for a model of these sizes; `more` are further metadata."""
    write_learned(path, FORMAT, tensors, config, method, more)


def check_steps(path: str, found: int, steps: int) -> None:
    """Raises ValueError where the file at `path`, of `found` steps, is not for `steps`."""
    if found != steps:
        raise ValueError(
            f"{path} is for {found} steps, got {steps}; sample with as many, or give a file for "
            "these"
        )


def _check(path: str, tensor: Tensor, kind: str, config: DiTConfig) -> None:
    slots = sum(1 for _ in pairs(config))
    shape = (slots,) if kind == "gates" else (slots, config.hidden)
    if tensor.shape[1:] != shape or len(tensor) == 0:
        wanted = ", ".join(["steps", *map(str, shape)])
        raise ValueError(f"{kind} of {path} must be [{wanted}], got {[*tensor.shape]}")
