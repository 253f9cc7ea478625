"""Files of what methods learn for one model: named tensors, and for which sizes they are.

A safetensors file, fp32; its metadata say format, version, method and the model's sizes. Knows no
method.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..atomic import write_whole
from ..config import DiTConfig

VERSION = "1"
SIZES = "family", "double", "single", "hidden"


class Learned(NamedTuple):
    """The tensors of a file by name, and its metadata."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_learned(
    path: str, form: str, what: str, names: Sequence[str], config: DiTConfig
) -> Learned:
    """The tensors `names` of a file of format `form`, for a model of these sizes.

    ValueError says in one line what is wrong; `what` is the word for all of them.
    """
    from safetensors import SafetensorError, safe_open  # a package that a bench does without

    try:
        with safe_open(Path(path), "pt") as file:
            metadata, there = file.metadata() or {}, [*file.keys()]
            tensors = {name: file.get_tensor(name) for name in names if name in there}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as a file of {what}: {error}") from error
    found = metadata.get("format"), metadata.get("version")
    if found != (form, VERSION):
        raise ValueError(
            f"{path} must be a file of format {form!r}, version {VERSION}, got {found[0]!r}, "
            f"version {found[1]}"
        )
    if len(tensors) < len(names):
        raise ValueError(f"{path} has no {what}, got {there}; give a file that was made for them")
    for name in SIZES:
        wanted, got = str(getattr(config, name)), metadata.get(name)
        if got != wanted:
            raise ValueError(f"{path} is for a model of {name} {got}, and this one has {wanted}")
    return Learned(tensors, metadata)


def write_learned(
    path: Path,
    form: str,
    tensors: Mapping[str, Tensor],
    config: DiTConfig,
    method: str,
    more: Mapping[str, str] | None = None,
) -> None:
    """A file of what `method` learned for a model of these sizes; `more` are further metadata."""
    from safetensors.torch import save_file  # a package that a bench does without

    sizes = {name: str(getattr(config, name)) for name in SIZES}
    about = {"format": form, "version": VERSION, "method": method} | sizes | dict(more or {})
    learned = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
    write_whole(path, lambda file: save_file(learned, file, metadata=about))


def digest_of(*tensors: Tensor, more: str = "") -> str:
    """A text by which tensors of other values, or another text, are told apart."""
    digest = sha256(more.encode())
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_steps(path: str, found: int, steps: int) -> None:
    """Raises ValueError where the file at `path`, of `found` steps, is not for `steps`."""
    if found != steps:
        raise ValueError(
            f"{path} is for {found} steps, got {steps}; sample with as many, or give a file for "
            "these"
        )
