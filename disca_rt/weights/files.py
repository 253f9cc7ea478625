"""Which file a directory means: the same rule for a local folder and for a folder on the Hub."""

from collections.abc import Iterable

from .errors import CheckpointError

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
INDEX_SUFFIX = ".index.json"
OFFICIAL_PICKLE = "mp_rank_00_model_states.pt"
SCALE_MAP_SUFFIX = "_map.pt"


def pick(names: Iterable[str], where: str) -> str:
    """The checkpoint among the file names of folder `where`.

    An index, else the only .safetensors, else the official .pt, else the only .pt or .bin. Raises
    CheckpointError listing the candidates where that is not one file.
    """
    names = sorted(names)
    for candidates in _candidates(names):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise CheckpointError(
                f"{where} holds {len(candidates)} checkpoints; name one of: {', '.join(candidates)}"
            )
    raise CheckpointError(
        f"{where} holds no checkpoint (*{INDEX_SUFFIX}, *.safetensors or *.pt); name the file"
    )


def _candidates(names: list[str]) -> Iterable[list[str]]:
    yield [name for name in names if name.endswith(".safetensors" + INDEX_SUFFIX)]
    yield [name for name in names if name.endswith(INDEX_SUFFIX)]
    yield [name for name in names if name.endswith(".safetensors")]
    yield [name for name in names if name == OFFICIAL_PICKLE]
    pickles = [name for name in names if name.endswith(SUFFIXES[1:])]
    yield [name for name in pickles if not name.endswith(SCALE_MAP_SUFFIX)]
