"""The table of formats of files of tensors; the first row that recognises a file reads it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..errors import CheckpointError
from .formats import START, refuse_other_formats
from .pickle import ZIP_START, PickleFile
from .safetensors import SafetensorsFile
from .tensor_file import TensorFile


class Format(NamedTuple):
    """`recognises` tells by a file's path and its first `START` bytes; `reader` opens it."""

    recognises: Callable[[Path, bytes], bool]
    reader: Callable[[Path], TensorFile]


def _is_safetensors(path: Path, start: bytes) -> bool:
    """Tell by the header in JSON; by the name where that is damaged, but for a zip archive."""
    is_called_so = path.suffix == ".safetensors" and not start.startswith(ZIP_START)
    return is_called_so or start[8:9] == b"{"


def _is_any(path: Path, start: bytes) -> bool:
    """True: the last reader says of what is none of these why it is not."""
    return True


FORMATS = Format(_is_safetensors, SafetensorsFile), Format(_is_any, PickleFile)


def open_tensors(path: Path) -> TensorFile:
    """Open a file of tensors; CheckpointError where it is empty, damaged or of another format."""
    with path.open("rb") as file:
        start = file.read(START)
    if not start:
        raise CheckpointError(f"{path} is empty; download or copy it again")
    refuse_other_formats(path, start)
    return next(each.reader(path) for each in FORMATS if each.recognises(path, start))
