"""The table of encodings; the first row that recognises a checkpoint wins."""

from ..checkpoint import Checkpoint
from .fp8_cast import Fp8Cast
from .fp8_inside import Fp8Inside
from .fp8_map import Fp8Map
from .kind import Kind

KINDS: tuple[Kind, ...] = (Fp8Inside(), Fp8Map(), Fp8Cast())


def is_encoded(dtype: str) -> bool:
    """Tell whether tensors of `dtype`, by its name in a `StoredSpec`, stand for other values."""
    return any(dtype in kind.dtypes for kind in KINDS)


def choose_kind(checkpoint: Checkpoint) -> Kind | None:
    """The way its encoded weights are; None where all are plain."""
    return next((kind for kind in KINDS if kind.recognises(checkpoint)), None)
