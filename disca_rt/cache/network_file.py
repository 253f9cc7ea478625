"""Files of BlockDance-Ada's network: its weights, and after how many steps it decides."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..config import DiTConfig
from .decision_network import Network, network_of, shapes
from .learned_file import check_steps, digest_of, read_learned, write_learned

FORMAT = "disca_rt decision network"


class NetworkFile(NamedTuple):
    """The network of a file, the `rho` steps before it decides, and a digest of both."""

    network: Network
    rho: int
    digest: str

    def check_steps(self, path: str, steps: int) -> None:
        """Raises ValueError where the file at `path` is not for `steps` steps."""
        check_steps(path, self.rho + self.network.later, steps)


def read_network(path: str, config: DiTConfig) -> NetworkFile:
    """The network in a file for a model of these sizes; else ValueError."""
    learned, metadata = read_learned(path, FORMAT, "weights of a network", Network._fields, config)
    later, rho = len(learned["out_bias"]), metadata.get("rho", "")
    if not rho.isdecimal() or int(rho) < 1 or later < 1:
        raise ValueError(f"{path} must say rho, at least 1, and decide on a step, got rho {rho!r}")
    for name, wanted in shapes(config, later).items():
        if learned[name].shape != wanted:
            got = [*learned[name].shape]
            raise ValueError(f"{name} of {path} must be {[*wanted]} for this model, got {got}")
    return NetworkFile(network_of(learned), int(rho), digest_of(*learned.values(), more=rho))


def write_network(path: Path, weights: Mapping[str, Tensor], rho: int, config: DiTConfig) -> None:
    """A file of weights by name, fp32, that decide after `rho` steps, for a model of some sizes."""
    write_learned(path, FORMAT, weights, config, "blockdance-ada", {"rho": str(rho)})
