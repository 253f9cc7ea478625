"""Strictness: which tensor of a file goes to which rows of which parameter, and nothing is left.

One error lists every missing, unexpected and mis-shaped tensor by its name in the file.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

from ..models.linear import weight_slots
from .errors import CheckpointError
from .identify import Model
from .layouts.table import Source, Span


class Copy(NamedTuple):
    """The file's tensor `source` fills `spans` (no spans: all) of the parameter `target`."""

    source: str
    target: str
    spans: tuple[Span, ...]


@dataclass
class _Faults:
    """Texts in order, each once: a packed tensor is needed by three of ours."""

    missing: dict[str, None] = field(default_factory=dict)
    unexpected: dict[str, None] = field(default_factory=dict)
    mis_shaped: dict[str, None] = field(default_factory=dict)

    def message(self) -> str:
        named = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "mis-shaped": self.mis_shaped,
        }
        return "; ".join(
            f"{len(names)} {fault}: {', '.join(names)}" for fault, names in named.items() if names
        )


def assign(model: Model, module: nn.Module) -> list[Copy]:
    """The copies that fill every row of every weight of `module`, however it keeps it, each once.

    Raises CheckpointError where the checkpoint's tensors are not exactly those.
    """
    specs, faults, copies = model.checkpoint.specs, _Faults(), []
    for target, slot in weight_slots(module).items():
        for source in model.layout.sources(target, specs):
            copies.append(Copy(source.name, target, source.spans))
            needed = _needed_shape(source, tuple(slot.shape), model.config.hidden)
            if source.name not in specs:
                faults.missing[source.name] = None
            elif specs[source.name].shape != needed:
                got = list(specs[source.name].shape)
                said = f"{model.name_in_file(source.name)} is {got}, should be {list(needed)}"
                faults.mis_shaped[said] = None
    unexpected = sorted(specs.keys() - {copy.source for copy in copies})
    faults.unexpected = dict.fromkeys(map(model.name_in_file, unexpected))
    _raise(model, faults, known=len(specs) - len(unexpected))
    return copies


def _needed_shape(source: Source, shape: tuple[int, ...], hidden: int) -> tuple[int, ...]:
    return (source.hidden_rows * hidden, *shape[1:]) if source.spans else shape


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
