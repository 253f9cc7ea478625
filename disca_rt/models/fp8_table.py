"""Which layer of a model computes in FP8, which only keeps its weight so, and which is in 16 bits.

A layer is a linear of a block or of a predictor's fusion, by its name in the model, or a block's
`attention`. What is in no table (embedders, refiner, head) is always in 16 bits. Knows names alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, get_args

Way = Literal["fp8", "weights", "16 bits"]
WAYS: tuple[Way, ...] = get_args(Way)
Row = tuple[str, Way]
"""A pattern of layers' names, with `*` for any letters, and how those run."""

MODULATION = "*mod*.linear"
ONE_INPUT = (("_attn_q", "_attn_k", "_attn_v"),)  # linears that take the same quantized rows


@dataclass(frozen=True)
class Fp8Table:
    """Rows of which the last that fits a layer holds, after those of the default.

    By default ("compute") all layers compute in FP8, without the modulations (a thousandth of the
    work) and without a DiT's first and last block, whose errors are seen most. `weights_only` is
    for devices without FP8 units: a DiT's linears keep weights in FP8, decoded at each use.
    """

    rows: tuple[Row, ...] = ()
    weights_only: bool = False

    @property
    def decodes(self) -> bool:
        """Tell whether weights of any layer are decoded at each use."""
        return self.weights_only or "weights" in dict(self.rows).values()

    def ways(self, layers: Sequence[str], blocks: Sequence[str], is_dit: bool) -> dict[str, Way]:
        """How each of `layers` runs, of a model with these `blocks`, by name.

        ValueError for a pattern that fits no layer, and where linears differ that take one input.
        """
        rows = [*self._default(blocks, is_dit), *self.rows]
        self._check_fit(layers)
        ways = {each: _last(rows, each) for each in layers}
        for layer in layers:
            for first, *others in ONE_INPUT:
                if layer.endswith(first):
                    _check_alike(ways, layer, [layer.removesuffix(first) + o for o in others])
        return ways

    def _default(self, blocks: Sequence[str], is_dit: bool) -> list[Row]:
        if self.weights_only:
            return [("*", "weights" if is_dit else "16 bits"), ("*.attention", "16 bits")]
        ends: list[Row] = [(f"{blocks[i]}.*", "16 bits") for i in (0, -1) if is_dit]
        return [("*", "fp8"), (MODULATION, "16 bits"), *ends]

    def _check_fit(self, layers: Sequence[str]) -> None:
        for pattern, way in self.rows:
            if way not in WAYS:
                raise ValueError(f"a way to run a layer is one of {list(WAYS)}, got {way!r}")
            if not any(fnmatchcase(layer, pattern) for layer in layers) and _is_of(pattern, layers):
                raise ValueError(
                    f"no layer is called {pattern!r}; the first are {', '.join(layers[:6])}"
                )


COMPUTE, WEIGHTS = Fp8Table(), Fp8Table(weights_only=True)
NAMED = {"compute": COMPUTE, "weights": WEIGHTS}
Fp8 = str | Fp8Table | None
"""A table, or what `fp8_table` takes for one; None: all is in 16 bits."""


def fp8_table(name: Fp8) -> Fp8Table | None:
    """The table called "compute" or "weights", or in a file `FILE.json`; None is none.

    The file maps patterns to ways, such as {"single_blocks.3.*": "16 bits"}; its rows come after
    those of "compute". ValueError for another name, or a file that is none such.
    """
    if name is None or isinstance(name, Fp8Table):
        return name
    if name in NAMED:
        return NAMED[name]
    if not name.endswith(".json"):
        raise ValueError(f"fp8 must be one of {sorted(NAMED)} or a .json file, got {name!r}")
    return read_table(Path(name))


def read_table(path: Path) -> Fp8Table:
    """The table whose rows are in `path`; ValueError says what is wrong."""
    try:
        read = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(read, dict) or not all(way in WAYS for way in read.values()):
        raise ValueError(
            f"{path} must map patterns of layers to one of {list(WAYS)}: "
            '{"single_blocks.3.*": "16 bits"}'
        )
    return Fp8Table(tuple(read.items()))


def _last(rows: Sequence[Row], layer: str) -> Way:
    fitting = [way for pattern, way in rows if fnmatchcase(layer, pattern)]
    is_attention = layer.endswith(".attention")
    return "16 bits" if is_attention and fitting[-1] == "weights" else fitting[-1]


def _is_of(pattern: str, layers: Sequence[str]) -> bool:
    """Tell whether a pattern is of this model: a file has rows of a DiT and of its predictor."""
    first = pattern.partition(".")[0]
    return any(fnmatchcase(layer.partition(".")[0], first) for layer in layers)


def _check_alike(ways: dict[str, Way], first: str, others: Sequence[str]) -> None:
    for other in others:
        if ways[other] != ways[first]:
            raise ValueError(
                f"{first} and {other} take one input, so they must run alike; got "
                f"{ways[first]!r} and {ways[other]!r}"
            )
