"""Strictness: which tensor of a file goes to which rows of which parameter, and nothing is left.

One error lists every missing, unexpected and mis-shaped tensor by its name in the file.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

from .errors import CheckpointError
from .identify import Model
from .layouts.table import Piece, Span


class Copy(NamedTuple):
    """The file's tensor `source` fills `spans` (no spans: all) of the parameter `target`."""

    source: str
    target: str
    spans: tuple[Span, ...]


@dataclass
class _Faults:
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mis_shaped: list[str] = field(default_factory=list)

    def message(self) -> str:
        named = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "mis-shaped": self.mis_shaped,
        }
        return "; ".join(
            f"{len(names)} {fault}: {', '.join(names)}" for fault, names in named.items() if names
        )


def plan_copies(model: Model, module: nn.Module) -> list[Copy]:
    """The copies that fill every row of every parameter of `module`, each once.

    Raises CheckpointError where the checkpoint's tensors are not exactly those.
    """
    specs, faults, copies = model.checkpoint.specs, _Faults(), []
    for target, parameter in module.state_dict(keep_vars=True).items():
        for piece in model.layout.pieces(target, specs):
            copies.append(Copy(piece.source, target, piece.spans))
            needed = _needed_shape(piece, tuple(parameter.shape), model.config.hidden)
            if piece.source not in specs:
                faults.missing.append(piece.source)
            elif specs[piece.source].shape != needed:
                got = list(specs[piece.source].shape)
                faults.mis_shaped.append(f"{piece.source} is {got}, should be {list(needed)}")
    used = {copy.source for copy in copies}
    faults.unexpected = sorted(specs.keys() - used)
    _raise(model, faults, known=len(specs) - len(faults.unexpected))
    return copies


def is_split(model: Model, copies: list[Copy]) -> bool:
    """Whether an official checkpoint is in the tensor-parallel layout."""
    return model.layout.own_names and any(copy.source != copy.target for copy in copies)


def _needed_shape(piece: Piece, shape: tuple[int, ...], hidden: int) -> tuple[int, ...]:
    if not piece.spans:
        return shape
    return (sum(span.count for span in piece.spans) * hidden, *shape[1:])


def _raise(model: Model, faults: _Faults, known: int) -> None:
    if len(faults.unexpected) > known:
        raise CheckpointError(
            f"{model.checkpoint.path} is not a {model.describe()}: of its tensors "
            f"{len(faults.unexpected)} are unknown and {known} known; unknown are: "
            f"{', '.join(faults.unexpected)}"
        )
    if message := faults.message():
        raise CheckpointError(
            f"{model.checkpoint.path} does not fit a {model.describe()} of its own sizes: {message}"
        )
