"""Reading one .pt file: a zip archive whose tensors are mapped, never executed, never copied.

`weights_only=True` always, so a file can hold tensors and plain containers and nothing else. Files
from before torch 1.6 are one long pickle that cannot be mapped; they are refused.
"""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, first_line
from .plain_path import plain_path
from .tensor_file import StoredSpec

ZIP_START = b"PK\x03\x04"
NESTING = ("module", "ema", "model", "state_dict")
"""The keys under which frameworks put the state dict; the first that is there wins."""


class PickleFile:
    """A `TensorFile` over the state dict of a .pt file, nested or bare."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tensors = _state_dict(load_mapped(path), path)
        self.specs = {name: _spec(tensor) for name, tensor in self._tensors.items()}

    def read(self, name: str) -> Tensor:
        return self._tensors[name].detach()


def load_mapped(path: Path) -> Any:
    """Read what `torch.save` wrote to `path`, its tensors mapped from the file."""
    _check_archive(path)
    try:
        with plain_path(path) as name:
            return torch.load(name, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # unpickling a damaged file raises anything
        raise CheckpointError(
            f"{path} cannot be read as tensors alone ({_reason(error)}); it is damaged, or "
            "holds Python objects, which are never executed: save its state dict with torch.save"
        ) from error


def _reason(error: Exception) -> str:
    """Say why the weights-only unpickler stopped, without torch's advice to use the unsafe one."""
    if match := re.search(r"Unsupported global: GLOBAL (\S+)", str(error)):
        return f"it refers to {match[1]}"
    if "weights_only" in str(error):
        return "its pickle is not one of tensors"
    return first_line(error)


def _check_archive(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(4)
    if start != ZIP_START:
        raise CheckpointError(_not_an_archive(path, start))
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:
        raise CheckpointError(
            f"{path} is a damaged zip archive ({first_line(error)}); download or copy it again"
        ) from error
    if not any(entry.filename.endswith("data.pkl") for entry in entries):
        held = ", ".join(entry.filename for entry in entries[:3])
        raise CheckpointError(
            f"{path} is a zip archive that torch.save did not write (it holds {held}); unpack it, "
            "or give the model's .safetensors or .pt"
        )
    for entry in entries:
        stored = entry.compress_type == zipfile.ZIP_STORED
        if not stored or entry.header_offset + entry.file_size > size:
            raise CheckpointError(
                f"{path}: its entry {entry.filename!r} is compressed or larger than the file, "
                "which torch.save never writes; download or copy it again"
            )


def _not_an_archive(path: Path, start: bytes) -> str:
    if start.startswith(b"\x80"):
        return (
            f"{path} is a pickle from before torch 1.6, which cannot be streamed; convert it once: "
            "torch.save(torch.load(OLD, weights_only=True), NEW), or to .safetensors"
        )
    return (
        f"{path} is neither a whole .pt archive nor .safetensors; it may be truncated: "
        "download or copy it again"
    )


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    content = _unnest(content)
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not a state dict; save "
            "model.state_dict(), bare or under 'module', 'ema' or 'model'"
        )
    wrong = [str(name) for name, value in content.items() if not _is_weight(name, value)]
    if wrong:
        raise CheckpointError(
            f"{path}: {len(wrong)} entries of its state dict are not dense tensors on the CPU: "
            f"{', '.join(wrong)}; give a model's plain state dict"
        )
    return dict(content)


def _unnest(content: Any) -> Any:
    for _ in range(len(NESTING)):
        nested = [content[key] for key in NESTING if _is_mapping_at(content, key)]
        if not nested:
            break
        content = nested[0]
    return content


def _is_mapping_at(content: Any, key: str) -> bool:
    return isinstance(content, Mapping) and isinstance(content.get(key), Mapping)


def _is_weight(name: Any, value: Any) -> bool:
    return (
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def _spec(tensor: Tensor) -> StoredSpec:
    return StoredSpec(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
