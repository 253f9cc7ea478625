"""Which way the weights of a checkpoint are encoded; the first row that recognises it wins."""

from ..checkpoint import Checkpoint
from .fp8_cast import Fp8Cast
from .fp8_inside import Fp8Inside
from .fp8_map import Fp8Map
from .kind import FP8_DTYPES, Kind

KINDS: tuple[Kind, ...] = (Fp8Inside(), Fp8Map(), Fp8Cast())
ENCODED_DTYPES = frozenset(FP8_DTYPES)
"""The dtypes, by their names in a `TensorSpec`, that a tensor has only where it is encoded."""


def choose_kind(checkpoint: Checkpoint) -> Kind | None:
    """The way its encoded weights are; None where all are plain."""
    return next((kind for kind in KINDS if kind.recognises(checkpoint)), None)
