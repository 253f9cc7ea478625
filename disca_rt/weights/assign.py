"""Strictness: which tensor of a file goes to which rows of which parameter, and nothing is left.

One error lists every missing, unexpected and mis-shaped tensor by its name in the file.
"""

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


Faults = dict[str, dict[str, None]]
"""Names or texts by kind of fault, each once: a packed tensor is needed by three of ours."""


def assign(model: Model, module: nn.Module) -> list[Copy]:
    """The copies that fill every row of every weight of `module`, however it keeps it, each once.

    Raises CheckpointError where the checkpoint's tensors are not exactly those.
    """
    specs, copies = model.checkpoint.specs, []
    faults: Faults = {"missing": {}, "unexpected": {}, "mis-shaped": {}}
    for target, slot in weight_slots(module).items():
        for source in model.layout.sources(target, specs):
            source = source.filling(slot.shape[0] // model.config.hidden)
            copies.append(Copy(source.name, target, source.spans))
            needed = _needed_shape(source, tuple(slot.shape), model.config.hidden)
            if source.name not in specs:
                faults["missing"][source.name] = None
            elif specs[source.name].shape != needed:
                got = list(specs[source.name].shape)
                said = f"{model.name_in_file(source.name)} is {got}, should be {list(needed)}"
                faults["mis-shaped"][said] = None
    unexpected = sorted(specs.keys() - {copy.source for copy in copies})
    faults["unexpected"] = dict.fromkeys(map(model.name_in_file, unexpected))
    _raise(model, faults, known=len(specs) - len(unexpected))
    return copies


def _needed_shape(source: Source, shape: tuple[int, ...], hidden: int) -> tuple[int, ...]:
    return (source.hidden_rows * hidden, *shape[1:]) if source.spans else shape


def _raise(model: Model, faults: Faults, known: int) -> None:
    unknown = faults["unexpected"]
    if len(unknown) > known:
        raise CheckpointError(
            f"{model.checkpoint.path} is not a {model.describe()}: of its tensors {len(unknown)} "
            f"are unknown and {known} known; unknown are: {', '.join(unknown)}"
        )
    told = [f"{len(names)} {kind}: {', '.join(names)}" for kind, names in faults.items() if names]
    if told:
        raise CheckpointError(
            f"{model.checkpoint.path} does not fit a {model.describe()} of its own sizes: "
            f"{'; '.join(told)}"
        )
