"""Files of what methods learn for their cache: gates, linear heads, a network that decides.

A safetensors file of "gates" `[steps, slots]`, values in [0, 1] of which 1 computes (L2C,
HarmoniCa), of "heads" `[steps, slots, C]` (LazyDiT), of the weights of a `Network`
(BlockDance-Ada), or of an `Adjustment` (Block Caching), fp32. Slots are those of `BranchPairs`. The
metadata say for which model it is.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..atomic import write_whole
from ..config import DiTConfig
from .decision_network import Network, network_of, shapes
from .placements.branches import pairs

FORMAT, VERSION = "disca_rt branch gates", "1"
SIZES = "family", "double", "single", "hidden"


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
    learned, _ = _read(path, kind, (kind,), config)
    _check(path, learned[kind], kind, config)
    return GateFile(learned[kind], _digest(learned))


def read_network(path: str, config: DiTConfig) -> NetworkFile:
    """The network in a file for a model of these sizes; else ValueError."""
    learned, metadata = _read(path, "weights of a network", Network._fields, config)
    later, rho = len(learned["out_bias"]), metadata.get("rho", "")
    if not rho.isdecimal() or int(rho) < 1 or later < 1:
        raise ValueError(f"{path} must say rho, at least 1, and decide on a step, got rho {rho!r}")
    for name, wanted in shapes(config, later)._asdict().items():
        if learned[name].shape != wanted:
            got = [*learned[name].shape]
            raise ValueError(f"{name} of {path} must be {[*wanted]} for this model, got {got}")
    return NetworkFile(network_of(learned), int(rho), _digest(learned, rho))


def read_adjustment(path: str, config: DiTConfig) -> Adjustment:
    """The adjustment in a file for a model of these sizes; else ValueError."""
    kinds = "computed", "scale", "shift"
    learned, _ = _read(path, "scales and shifts", kinds, config)
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
    return Adjustment(rows, learned["scale"], learned["shift"], _digest(learned))


def write_gates(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: DiTConfig,
    method: str,
    more: Mapping[str, str] | None = None,
) -> None:
    """A file of what `method` learned for a model of these sizes; `more` are further metadata."""
    from safetensors.torch import save_file  # a package that a bench does without

    sizes = {name: str(getattr(config, name)) for name in SIZES}
    about = {"format": FORMAT, "version": VERSION, "method": method} | sizes | dict(more or {})
    learned = {kind: tensor.float().contiguous() for kind, tensor in tensors.items()}
    write_whole(path, lambda file: save_file(learned, file, metadata=about))


def _read(
    path: str, what: str, kinds: Sequence[str], config: DiTConfig
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors called `kinds` in a file for a model of these sizes, and the metadata."""
    from safetensors import SafetensorError, safe_open  # a package that a bench does without

    try:
        with safe_open(Path(path), "pt") as file:
            metadata, names = file.metadata() or {}, [*file.keys()]
            found = {kind: file.get_tensor(kind) for kind in kinds if kind in names}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as a file of {what}: {error}") from error
    form = metadata.get("format"), metadata.get("version")
    if form != (FORMAT, VERSION):
        raise ValueError(
            f"{path} must be a file of format {FORMAT!r}, version {VERSION}, got {form[0]!r}, "
            f"version {form[1]}"
        )
    if len(found) < len(kinds):
        raise ValueError(f"{path} has no {what}, got {names}; give a file that was made for them")
    for name in SIZES:
        wanted, got = str(getattr(config, name)), metadata.get(name)
        if got != wanted:
            raise ValueError(f"{path} is for a model of {name} {got}, and this one has {wanted}")
    return found, metadata


def _digest(learned: Mapping[str, Tensor], more: str = "") -> str:
    """A digest of tensors and a text."""
    digest = sha256(more.encode())
    for tensor in learned.values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


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
