"""Files of what methods learn about branches: gates, or linear heads, by step and slot.

A safetensors file of "gates" `[steps, slots]`, values in [0, 1] of which 1 computes (L2C,
HarmoniCa), or of "heads" `[steps, slots, C]` (LazyDiT), fp32. Slots are those of `BranchPairs`.
The metadata say for which model it is.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..atomic import write_whole
from ..config import DiTConfig
from .placements.branches import pairs

FORMAT, VERSION = "disca_rt branch gates", "1"
SIZES = "family", "double", "single", "hidden"


class GateFile(NamedTuple):
    """The tensor of a file, and a digest of it, by which two files are told apart."""

    tensor: Tensor
    digest: str

    def check_steps(self, path: str, steps: int) -> None:
        """Raises ValueError where the file at `path` is not for `steps` steps."""
        if len(self.tensor) != steps:
            raise ValueError(
                f"{path} is for {len(self.tensor)} steps, got {steps}; sample with as many, or "
                "give a file for these"
            )


def read_gates(path: str, kind: str, config: DiTConfig) -> GateFile:
    """The "gates" or the "heads" (`kind`) in a file for a model of these sizes; else ValueError."""
    tensor = read_learned(path, FORMAT, (kind,), config)[kind]
    slots = sum(1 for _ in pairs(config))
    shape = (slots,) if kind == "gates" else (slots, config.hidden)
    if tensor.shape[1:] != shape or len(tensor) == 0:
        wanted = ", ".join(["steps", *map(str, shape)])
        raise ValueError(f"{kind} of {path} must be [{wanted}], got {[*tensor.shape]}")
    return GateFile(tensor, digest_of(tensor))


def write_gates(path: Path, tensors: Mapping[str, Tensor], config: DiTConfig, method: str) -> None:
    """A file of the "gates" or "heads" that `method` learned for a model of these sizes."""
    write_learned(path, FORMAT, tensors, config, method)


def digest_of(*tensors: Tensor) -> str:
    """A text by which tensors of other values are told apart."""
    return sha256(b"".join(each.contiguous().numpy().tobytes() for each in tensors)).hexdigest()


def read_learned(
    path: str, form: str, kinds: Sequence[str], config: DiTConfig
) -> dict[str, Tensor]:
    """The tensors named `kinds` of a file of format `form` for a model of these sizes.

    ValueError says in one line what is wrong.
    """
    from safetensors import SafetensorError, safe_open  # a package that a bench does without

    try:
        with safe_open(Path(path), "pt") as file:
            metadata, names = file.metadata() or {}, [*file.keys()]
            tensors = {kind: file.get_tensor(kind) for kind in kinds if kind in names}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as a file of {kinds[0]}: {error}") from error
    found = metadata.get("format"), metadata.get("version")
    if found != (form, VERSION):
        raise ValueError(
            f"{path} must be a file of format {form!r}, version {VERSION}, got {found[0]!r}, "
            f"version {found[1]}"
        )
    for kind in kinds:
        if kind not in tensors:
            raise ValueError(
                f"{path} has no {kind}, got {names}; give a file that was made for them"
            )
    for name in SIZES:
        wanted, got = str(getattr(config, name)), metadata.get(name)
        if got != wanted:
            raise ValueError(f"{path} is for a model of {name} {got}, and this one has {wanted}")
    return tensors


def write_learned(
    path: Path, form: str, tensors: Mapping[str, Tensor], config: DiTConfig, method: str
) -> None:
    """A file of format `form` of what `method` learned for a model of these sizes, as fp32."""
    from safetensors.torch import save_file  # a package that a bench does without

    sizes = {name: str(getattr(config, name)) for name in SIZES}
    about = {"format": form, "version": VERSION, "method": method} | sizes
    learned = {kind: tensor.float().contiguous() for kind, tensor in tensors.items()}
    write_whole(path, lambda file: save_file(learned, file, metadata=about))
