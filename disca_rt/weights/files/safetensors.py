"""Reading one .safetensors file, tensor by tensor: a header in JSON, then the mapped data.

The header's length is the first eight bytes. Read here, so that models load where PyTorch is all
there is.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, first_line
from .formats import START, refuse_other_formats
from .plain_path import plain_path
from .tensor_file import StoredSpec

TORCH_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}
READABLE: dict[str, torch.dtype] = {name: getattr(torch, name) for name in TORCH_NAMES.values()}
METADATA = "__metadata__"
MAX_HEADER_BYTES = 100_000_000  # what the format allows


def open_safetensors(path: Path) -> "SafetensorsFile":
    """Open a file that can be nothing else; CheckpointError names the format of another."""
    try:
        with path.open("rb") as file:
            start = file.read(START)
        refuse_other_formats(path, start)
        if start.startswith(b"PK"):
            raise CheckpointError(
                f"{path} is a zip archive, such as torch.save writes; write its tensors with "
                "safetensors.torch.save_file"
            )
        return SafetensorsFile(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({first_line(error)})") from error


class SafetensorsFile:
    """A `TensorFile` with its `metadata`.

    Raises CheckpointError where the header or the size is wrong.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size
        try:
            header, start = _read_header(path, size)
            told = header.pop(METADATA, None)
            self.metadata: dict[str, str] = told if isinstance(told, dict) else {}
            self.specs = {name: _spec(name, entry) for name, entry in header.items()}
            self._extents = {
                name: _extent(name, entry, self.specs[name], start)
                for name, entry in header.items()
            }
            _check_extents(self._extents, start, size)
            with plain_path(path) as name:
                self._bytes = torch.from_file(name, shared=False, size=size, dtype=torch.uint8)
        except (ValueError, RecursionError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} is not a whole .safetensors file ({first_line(error)}); "
                "it may be truncated or damaged: download or copy it again"
            ) from error

    def read(self, name: str) -> Tensor:
        spec, extent = self.specs[name], self._extents[name]
        if spec.dtype not in READABLE:
            raise CheckpointError(f"{self.path}: {name} is of {spec.dtype}, which is not read")
        dtype = READABLE[spec.dtype]
        mapped = self._bytes[extent]
        if extent.start % dtype.itemsize:  # an odd header: only a copy is aligned
            mapped = mapped.clone()
        return mapped.view(dtype).view(spec.shape)


def _read_header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    """The header, and where the data begins; ValueError says what is wrong."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        header = json.loads(file.read(length).decode(), object_pairs_hook=_without_repeats)
    if not isinstance(header, dict):
        raise ValueError(f"its header is a {type(header).__name__}")
    return header, 8 + length


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("its header has a name twice")
    return dict(pairs)


def _spec(name: str, entry: Any) -> StoredSpec:
    try:
        dtype, shape = entry["dtype"], entry["shape"]
    except (TypeError, KeyError, IndexError):
        raise ValueError(f"{name} has no dtype or no shape") from None
    if not isinstance(dtype, str) or not _are_sizes(shape):
        raise ValueError(f"{name} has dtype {dtype!r} and shape {shape!r}")
    return StoredSpec(tuple(shape), TORCH_NAMES.get(dtype, dtype.lower()))


def _extent(name: str, entry: dict[str, Any], spec: StoredSpec, start: int) -> slice:
    """Bytes of a tensor in the file; compared with its shape where models have its dtype."""
    offsets = entry.get("data_offsets")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{name} has data_offsets {offsets!r}")
    dtype, size = READABLE.get(spec.dtype), offsets[1] - offsets[0]
    if dtype is not None and size != math.prod(spec.shape) * dtype.itemsize:
        raise ValueError(f"{name} has {size} bytes for {list(spec.shape)} of {spec.dtype}")
    return slice(start + offsets[0], start + offsets[1])


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def _check_extents(extents: dict[str, slice], start: int, size: int) -> None:
    """Raise ValueError unless they lie one after another, to the last byte of the file."""
    end = start
    for extent in sorted(extents.values(), key=lambda each: (each.start, each.stop)):
        if extent.start != end:
            raise ValueError(f"data at byte {extent.start} where byte {end} is next")
        end = extent.stop
    if end != size:
        raise ValueError(f"{end} bytes are described, the file has {size}")
