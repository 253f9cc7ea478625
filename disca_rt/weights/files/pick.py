"""The choice of a file in a directory: one rule for local folders and for those on the Hub."""

import re
from collections.abc import Iterable, Iterator

from ..errors import CheckpointError
from .formats import others_among

PICKLES = (".pt", ".pth", ".bin", ".ckpt")
SUFFIXES = (".safetensors", *PICKLES)
INDEX = re.compile(r"(?P<stem>.+)\.index(?:\.[\w-]+)?\.json")  # index.json, index.fp16.json
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{1,5})-of-(?P<count>\d{1,5})(?P<suffix>(\.\w+)+)")
OFFICIAL_PICKLE = "mp_rank_00_model_states.pt"
SCALE_MAP_SUFFIX = "_map.pt"
DIT_FOLDERS = ("transformer", "transformers")
"""The folder of the DiT in a pipeline's folder: diffusers', and the authors'."""


def pick(names: Iterable[str], where: str) -> str:
    """The checkpoint among the file names of folder `where`.

    An index, else the only .safetensors, else the official .pt, else the only .pt or .bin; of
    shards without an index, the first. Raises CheckpointError listing the candidates where that is
    not one file.
    """
    names = sorted(name for name in names if not name.startswith("."))  # ._x is macOS's
    for candidates in _candidates(names):
        sets = {shard["stem"] for name in candidates if (shard := SHARD.fullmatch(name))}
        if len(candidates) == 1 or (len(sets) == 1 and all(map(SHARD.fullmatch, candidates))):
            return candidates[0]
        if candidates:
            raise CheckpointError(
                f"{where} holds {len(candidates)} checkpoints; name one of: {', '.join(candidates)}"
            )
    raise CheckpointError(
        f"{where} holds no checkpoint (*.index.json, *.safetensors or *.pt)"
        f"{others_among(names)}; name the file"
    )


def holds_checkpoint(names: Iterable[str]) -> bool:
    """Tell whether a folder with these files holds one checkpoint or more."""
    return any(_candidates([name for name in names if not name.startswith(".")]))


def _candidates(names: list[str]) -> Iterator[list[str]]:
    indices = [name for name in names if INDEX.fullmatch(name)]
    yield [name for name in indices if ".safetensors.index" in name]
    yield indices
    yield [name for name in names if name.endswith(".safetensors")]
    yield [name for name in names if name == OFFICIAL_PICKLE]
    yield [n for n in names if n.endswith(PICKLES) and not n.endswith(SCALE_MAP_SUFFIX)]


def shard_names(name: str) -> list[str]:
    """The shards, in order, of the set that the shard `name` is of; none where it is no shard."""
    shard = SHARD.fullmatch(name)
    if shard is None:
        return []
    count, digits = int(shard["count"]), len(shard["number"])
    rest = f"-of-{shard['count']}{shard['suffix']}"
    return [f"{shard['stem']}-{i:0{digits}d}{rest}" for i in range(1, count + 1)]


def scale_map_name(name: str) -> str:
    """The file of the scales of checkpoint `name`, beside it."""
    index = INDEX.fullmatch(name)
    stem = index["stem"] if index else name
    return stem.rpartition(".")[0] + SCALE_MAP_SUFFIX
