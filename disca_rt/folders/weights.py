"""Fills a module of transformers or diffusers from a checkpoint whose names are mapped to its own.

The module is built without storage, then given storage on its device, then filled tensor by tensor
straight from the mapped file: nothing is held twice, and what is not named is never read.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..weights.checkpoint import Checkpoint, open_checkpoint, read_json_object
from ..weights.encodings.choose import choose_kind, is_encoded
from ..weights.encodings.kind import Coded
from ..weights.encodings.stored import PLAIN, Encoding
from ..weights.errors import CheckpointError, first_line
from ..weights.files.tensor_file import DTYPES

M = TypeVar("M", bound=nn.Module)
TOLD = 8  # names of tensors in one line


@dataclass(frozen=True)
class Weights:
    """The tensors of a part; `what` is what it should be, in words."""

    whole: Checkpoint
    what: str

    @classmethod
    def open(cls, path: Path, what: str) -> "Weights":
        """Raises CheckpointError where it is no readable checkpoint."""
        return cls(open_checkpoint(path), what)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The tensors that are weights, without those that belong to their encoding."""
        kind = choose_kind(self.whole)
        return self.whole if kind is None else self.whole.without(kind.helpers(self.whole))

    @property
    def path(self) -> Path:
        return self.whole.path

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the tensor `name`; CheckpointError where it is not there."""
        if name not in self.checkpoint.entries:
            raise CheckpointError(f"{self.path} is not a {self.what}: it has no tensor {name}")
        return self.checkpoint.specs[name].shape

    def prefix(self, anchor: str) -> str:
        """Prefix of the name `anchor` in the file; CheckpointError where no name ends so."""
        found = [n for n in self.checkpoint.entries if n == anchor or n.endswith(f".{anchor}")]
        if not found:
            names = ", ".join(sorted(self.checkpoint.entries)[:3])
            raise CheckpointError(
                f"{self.path} is not a {self.what}: none of its tensors is called {anchor}; it has "
                f"{names} and others"
            )
        return min(found, key=len).removesuffix(anchor)

    def under(self, prefix: str, foreign: re.Pattern[str]) -> dict[str, str]:
        """Names less `prefix` -> names in the file, without those that are `foreign`.

        Names of neither kind stay as they are, to be told as unexpected.
        """
        names = ((name.removeprefix(prefix), name) for name in self.checkpoint.entries)
        return {
            inner: name
            for inner, name in names
            if not foreign.match(inner) and (inner != name or not foreign.match(name))
        }

    def below(self, prefix: str) -> dict[str, str]:
        """Names less `prefix` -> names in the file, of those that have it; the others are left."""
        names = self.checkpoint.entries
        return {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}

    def named_as(self, module: nn.Module, anchor: str, foreign: re.Pattern[str]) -> dict[str, str]:
        """Names of `module` -> names in the file; before `anchor` each has a prefix of its own."""
        own = next(n for n in module.state_dict() if n.endswith(anchor)).removesuffix(anchor)
        return {own + name: n for name, n in self.under(self.prefix(anchor), foreign).items()}

    def dtype(self, named: Mapping[str, str]) -> torch.dtype:
        """The dtype of most values of the tensors named; bf16 where some are encoded."""
        values = Counter[str]()
        for name in named.values():
            spec = self.checkpoint.specs[name]
            values[spec.dtype] += math.prod(spec.shape)
        if any(map(is_encoded, values)):
            return torch.bfloat16
        return DTYPES.get(values.most_common(1)[0][0], torch.float32)

    def encodings(self, named: Mapping[str, str]) -> dict[str, Encoding]:
        """The encoding of every tensor that is not plain, by its name in the file.

        Also of those that are not named: a kind refuses scales that nothing has.
        """
        kind, specs = choose_kind(self.whole), self.checkpoint.specs
        targets = {name: target for target, name in named.items()}
        names = [*targets, *(specs.keys() - targets.keys())]
        coded = [Coded(n, targets.get(n, n)) for n in names if is_encoded(specs[n].dtype)]
        return {} if kind is None else kind.encodings(self.whole, coded)


def heads_of(weights: Weights, width: int, head_width: int) -> int:
    """The number of heads in `width`; CheckpointError where they are not as wide as is known."""
    if width % head_width:
        beside = weights.path.with_suffix(".json").name
        raise CheckpointError(
            f"{weights.path}: its tensors cannot tell the width of its heads, which is not "
            f"{head_width}; put its config.json beside it, as {beside}"
        )
    return width // head_width


def config_of(path: Path) -> Mapping[str, Any]:
    """The configuration of a part: config.json in its folder, or NAME.json beside NAME.safetensors.

    Empty where there is none.
    """
    file = path / "config.json" if path.is_dir() else path.with_suffix(".json")
    return read_json_object(file) if file.is_file() else {}


def build(weights: Weights, make: Callable[[], M]) -> M:
    """Module that `make` makes, its tensors without storage; CheckpointError where it cannot."""
    try:
        with torch.device("meta"):
            return make()
    except CheckpointError:
        raise
    except Exception as error:  # a configuration may say anything, and each library has its own
        raise CheckpointError(
            f"{weights.path}: no {weights.what} can be made as its config.json says "
            f"({first_line(error)}); put the model's own there"
        ) from error


def fill(
    module: M,
    weights: Weights,
    named: Mapping[str, str],
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> M:
    """Fill `module` from the tensors that `named` names in the file, by the module's own names.

    `dtype` None keeps the file's. It is left in eval mode without gradients. Raises CheckpointError
    listing the tensors that are missing, unexpected, mis-shaped or not finite.
    """
    aliases = _aliases(module)
    _check(module, weights, named, aliases)
    named = {target: name for target, name in named.items() if target in aliases}
    dtype = dtype or weights.dtype(named)
    _allocate(module, weights, torch.device(device), dtype)
    targets, encodings = module.state_dict(keep_vars=True), weights.encodings(named)
    wrong = []
    for target, name in named.items():
        tensor, value = targets[target].detach(), weights.checkpoint.read(name)
        encodings.get(name, PLAIN).decode_into(value.view(tensor.shape), tensor)
        if not all(bool(torch.isfinite(extreme)) for extreme in tensor.aminmax()):
            wrong.append(name)
    if wrong:
        raise CheckpointError(
            f"{weights.path}: values of {len(wrong)} tensors are not finite as "
            f"{str(dtype).removeprefix('torch.')}: {_told(wrong)}"
        )
    return module.eval().requires_grad_(False)


def _aliases(module: nn.Module) -> dict[str, list[str]]:
    """The names of each tensor of the module's state, by each of them: tied ones have several."""
    state = module.state_dict(keep_vars=True)
    by_tensor: dict[int, list[str]] = {}
    for name, tensor in state.items():
        by_tensor.setdefault(id(tensor), []).append(name)
    return {name: by_tensor[id(tensor)] for name, tensor in state.items()}


def _check(
    module: nn.Module,
    weights: Weights,
    named: Mapping[str, str],
    aliases: Mapping[str, list[str]],
) -> None:
    state, specs = module.state_dict(keep_vars=True), weights.checkpoint.specs
    missing = [name for name, same in aliases.items() if not any(n in named for n in same)]
    shapes = {
        name: (tuple(state[name].shape), specs[named[name]].shape)
        for name in state.keys() & named.keys()
    }
    faults = {
        "missing": missing,
        "unexpected": sorted(name for target, name in named.items() if target not in state),
        "mis-shaped": [
            f"{named[name]} is {list(got)}, should be {list(want)}"
            for name, (want, got) in shapes.items()
            if _squeezed(got) != _squeezed(want)
        ],
    }
    told = [f"{len(names)} {kind}: {_told(names)}" for kind, names in faults.items() if names]
    if told:
        raise CheckpointError(f"{weights.path} is not a {weights.what}: {'; '.join(told)}")


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its last sides of 1: those of a convolution of one pixel are left out."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _told(names: list[str]) -> str:
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return ", ".join(names[:TOLD]) + more


def _allocate(
    module: nn.Module, weights: Weights, device: torch.device, dtype: torch.dtype
) -> None:
    """Give storage to all tensors; tied ones stay tied, and what is not saved is computed anew."""
    size = sum(parameter.numel() for parameter in module.parameters()) * dtype.itemsize
    made: dict[int, nn.Parameter] = {}
    wide = getattr(module, "_keep_in_fp32_modules", None) or ()
    wide = wide if dtype == torch.float16 else ()  # as transformers: T5's `wo` overflows in fp16
    try:
        for place, owner in list(module.named_modules()):
            own = torch.float32 if set(place.split(".")) & set(wide) else dtype
            for name, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
                if id(parameter) not in made:
                    empty = torch.empty(parameter.shape, dtype=own, device=device)
                    made[id(parameter)] = nn.Parameter(empty, requires_grad=False)
                setattr(owner, name, made[id(parameter)])
        _renew_buffers(module, device)
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        raise CheckpointError(
            f"{weights.path}: its {size / 1e9:.1f} GB do not fit on {device} "
            f"({first_line(error)}); choose another device or dtype"
        ) from error


def _renew_buffers(module: nn.Module, device: torch.device) -> None:
    for owner in list(module.modules()):
        for name, child in owner.named_children():
            is_rotary = any(b.is_meta for b in child.buffers(recurse=False)) and not any(
                True for _ in child.parameters()
            )
            if is_rotary:  # a function of its config alone
                setattr(owner, name, type(child)(child.config).to(device))
        for name, buffer in owner.named_buffers(recurse=False):
            if buffer.is_meta and name == "position_ids":
                numbers = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape)
                owner.register_buffer(name, numbers, persistent=False)
    assert not any(tensor.is_meta for tensor in _tensors(module))


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
