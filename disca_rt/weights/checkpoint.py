"""A checkpoint as one set of named tensors, whether it is one file, a folder or an index of shards.

Names are what the file says, less the prefixes a wrapper put on all of them. Nothing here knows
what the tensors mean.
"""

import json
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from .errors import CheckpointError, first_line
from .files.choose import open_tensors
from .files.pick import DIT_FOLDERS, holds_checkpoint, pick, shard_names
from .files.tensor_file import StoredSpec, TensorFile

WRAPPERS = "module.", "model.", "predictor.", "diffusion_model.", "transformer.", "_orig_mod."
COMFYUI_DIT = "model.diffusion_model."
COMFYUI_OTHERS = ("vae.", "first_stage_model.", "text_encoders.", "cond_stage_model.", "clip_")
"""The prefix of the DiT in a ComfyUI checkpoint, and those of other models in it."""

# A file holds at least a byte per element, except where tensors share storage; beyond this factor
# its sizes are nonsense that must not be allocated.
MAX_ELEMENTS_PER_BYTE = 4


class Entry(NamedTuple):
    """One tensor: the file it is in and its name there."""

    file: TensorFile
    name: str


@dataclass(frozen=True)
class Checkpoint:
    """`path` is what was opened, `files` what holds the tensors, `entries` the tensors by name."""

    path: Path
    files: tuple[Path, ...]
    entries: dict[str, Entry]

    @property
    def specs(self) -> dict[str, StoredSpec]:
        return {name: entry.file.specs[entry.name] for name, entry in self.entries.items()}

    def without(self, names: Collection[str]) -> "Checkpoint":
        """The checkpoint less the tensors called `names`."""
        kept = {name: entry for name, entry in self.entries.items() if name not in names}
        return replace(self, entries=kept)

    def read(self, name: str) -> Tensor:
        """A view of the mapped file."""
        entry = self.entries[name]
        return entry.file.read(entry.name)


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a file, an index, or the folder of one; raises CheckpointError where it is damaged."""
    try:
        if path.is_dir():
            path = _pick_inside(path)
        if path.suffix == ".json":
            checkpoint = _open_index(path)
        else:
            shards = shard_names(path.name)
            checkpoint = _open_files(path, _beside(path, shards) if shards else [path])
        size = sum(file.stat().st_size for file in checkpoint.files)
    except OSError as error:
        is_lost = path.is_symlink() and not path.exists()
        why = f"a link to {path.readlink()}, which is not there" if is_lost else first_line(error)
        raise CheckpointError(f"{path} cannot be read ({why})") from error
    _check_specs(checkpoint, size)
    return checkpoint


def _pick_inside(folder: Path) -> Path:
    """The checkpoint of a folder, or of the DiT's folder in a pipeline's."""
    inner = [folder / name for name in DIT_FOLDERS if (folder / name).is_dir()]
    if inner and not holds_checkpoint(_file_names(folder)):
        folder = inner[0]
    try:
        return folder / pick(_file_names(folder), str(folder))
    except CheckpointError as error:
        if holds_checkpoint(_file_names(folder)):
            raise
        levels = (sorted(folder.glob(level)) for level in ("*/", "*/*/", "*/*/*/"))
        below = [each for level in levels for each in level if holds_checkpoint(_file_names(each))]
        if not below:
            raise
        raise CheckpointError(
            f"{folder} holds no checkpoint itself; name one of its folders: "
            f"{', '.join(str(each.relative_to(folder)) for each in below)}"
        ) from error


def _file_names(folder: Path) -> list[str]:
    """The names of all but folders, links to nowhere among them: they are said to be that."""
    return [item.name for item in folder.iterdir() if not item.is_dir()]


def _open_files(path: Path, files: list[Path]) -> Checkpoint:
    """Open one file, or all shards of a set that has no index, whichever of them `path` is."""
    opened = map(open_tensors, files)
    entries = {name: Entry(file, name) for file in opened for name in file.specs}
    return Checkpoint(path, tuple(files), _strip(entries))


def _beside(path: Path, names: Iterable[str]) -> list[Path]:
    """The shards called `names`, in the folder of `path`; CheckpointError names the absent."""
    shards = [path.parent / name for name in names]
    if absent := [shard.name for shard in shards if not shard.is_file()]:
        raise CheckpointError(
            f"{path}: {len(absent)} of {len(shards)} shards are not beside it; "
            f"download them too: {', '.join(absent)}"
        )
    return shards


def _open_index(path: Path) -> Checkpoint:
    weight_map = read_weight_map(path)
    shards = _beside(path, sorted(set(weight_map.values())))
    opened = {shard.name: open_tensors(shard) for shard in shards}
    entries = {name: Entry(file, name) for file in opened.values() for name in file.specs}
    lost = [name for name, shard in weight_map.items() if name not in opened[shard].specs]
    if lost:
        raise CheckpointError(
            f"{path}: {len(lost)} tensors are missing from the shards it names for them: "
            f"{', '.join(sorted(lost))}; index and shards are not of one checkpoint"
        )
    entries |= {name: Entry(opened[shard], name) for name, shard in weight_map.items()}
    return Checkpoint(path, tuple(shards), _strip(entries))


def read_weight_map(path: Path) -> dict[str, str]:
    """Tensor name -> shard file name, in the index `path`."""
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{path} has no 'weight_map'; name its folder, a *.index.json, a .safetensors or a .pt"
        )
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard or "\0" in shard:
            raise CheckpointError(
                f"{path}: weight_map[{name!r}] must be the name of a file beside it, got {shard!r}"
            )
    return weight_map


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; raises CheckpointError where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({first_line(error)}); write it anew") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must be a JSON object, got a {type(content).__name__}")
    return content


def _strip(entries: dict[str, Entry]) -> dict[str, Entry]:
    """Drop the prefixes that every name carries, and the other models of a ComfyUI checkpoint."""
    if any(name.startswith(COMFYUI_DIT) for name in entries):
        own = {name: each for name, each in entries.items() if not name.startswith(COMFYUI_OTHERS)}
        entries = {name.removeprefix(COMFYUI_DIT): each for name, each in own.items()}
    while prefix := next((p for p in WRAPPERS if _all_start_with(entries, p)), None):
        entries = {name.removeprefix(prefix): entry for name, entry in entries.items()}
    return entries


def _all_start_with(entries: dict[str, Entry], prefix: str) -> bool:
    return bool(entries) and all(name.startswith(prefix) for name in entries)


def _check_specs(checkpoint: Checkpoint, size: int) -> None:
    specs = checkpoint.specs
    if not specs:
        raise CheckpointError(f"{checkpoint.path} holds no tensors")
    elements = sum(math.prod(spec.shape) for spec in specs.values())
    if elements > MAX_ELEMENTS_PER_BYTE * size:
        raise CheckpointError(
            f"{checkpoint.path} claims {elements} elements in {size} bytes; it is damaged: "
            "download or copy it again"
        )
