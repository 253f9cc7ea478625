"""Training data: samples of latents and conditioning, found again by their position in a run.

A source is any iterable of `(latents [C, T, H, W], conditioning of batch 1)`. One with a method
`at(position)` is asked for the sample of each position; one with `__getitem__` and `__len__` is
read in place and shuffled anew each epoch; any other is read in its own order, and again from its
beginning once it is used up. Position p of a run is the same sample on any number of ranks, and
after any interruption. A sample that the model cannot learn from is refused by its name.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..conditioning import Conditioning
from ..config import DiTConfig
from ..pipeline.saved_conditioning import MASK_DTYPES, STATE_DTYPES
from ..seeds import generator

TrainingSample = tuple[Tensor, Conditioning]


class EndlessSource(Protocol):
    """A source that has a sample for every position of a run, such as clips drawn on the fly."""

    def at(self, position: int) -> TrainingSample: ...


SampleSource = Iterable[TrainingSample] | EndlessSource


class Batch(NamedTuple):
    """Samples that are trained on together: `latents [B, C, T, H, W]` fp32, `conditioning` of B."""

    latents: Tensor
    conditioning: Conditioning

    def to(self, device: torch.device | str) -> "Batch":
        return Batch(self.latents.to(device), self.conditioning.to(device))


def make_reader(source: SampleSource, seed: int) -> "SampleReader":
    """Choose the reader that suits `source`; `seed` orders the epochs of one of known length."""
    if hasattr(source, "at"):
        return SampleReader(source)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return ShuffledReader(source, seed)
    return SequentialReader(source)


def read_batch(reader: "SampleReader", positions: Sequence[int], model: DiTConfig) -> Batch:
    """Read the samples at `positions` and stack them, texts padded to the longest.

    ValueError names the sample that `model` cannot learn from, or the sizes that do not stack.
    """
    samples = reader.read(positions)
    for position, sample in zip(positions, samples, strict=True):
        try:
            check_sample(*sample, model)
        except ValueError as error:
            raise ValueError(f"{reader.name(position)}: {error}") from error
    latents, conditionings = zip(*samples, strict=True)
    shapes = {tuple(each.shape) for each in latents}
    if len(shapes) > 1:
        raise ValueError(
            f"latents of one micro-batch must have one shape, got {sorted(shapes)}; with "
            "micro_batch 1 a run takes all of them"
        )
    return Batch(torch.stack(latents).float(), collate(conditionings))


def check_sample(latents: Tensor, conditioning: Conditioning, model: DiTConfig) -> None:
    """Raise ValueError naming the first tensor of a sample that `model` cannot learn from."""
    _check_dtype("latents", latents)
    if latents.ndim != 4 or len(latents) != model.in_channels:
        raise ValueError(f"latents must be [{model.in_channels}, T, H, W], got {_shape(latents)}")
    sides = tuple(latents.shape[1:])
    if not all(side and side % part == 0 for side, part in zip(sides, model.patch, strict=True)):
        raise ValueError(f"latents must divide into patches of {model.patch}, got sides {sides}")
    if not torch.isfinite(latents.float()).all():
        raise ValueError("latents have values that are not finite; encode the video again")
    check_conditioning(conditioning, model)
    condition = conditioning.cond_latents
    if condition is not None and condition.shape[2:] != latents.shape[1:]:
        raise ValueError(f"cond_latents must have the sides {sides}, got {_shape(condition)}")


def check_conditioning(conditioning: Conditioning, model: DiTConfig) -> None:
    """Raise ValueError unless it is of one sample, and of tensors that `model` takes.

    Nothing is learnt with a clean first frame: losses are of all frames.
    """
    if model.token_replace or conditioning.first_frame_latents is not None:
        raise ValueError(
            "first_frame_latents: training takes no clean first frame; leave it out, and train a "
            "model without token_replace"
        )
    for name, tensor in conditioning.tensors().items():
        _check_dtype(name, tensor)
    conditioning.validate(model)
    if conditioning.batch != 1:
        raise ValueError(f"conditioning must be of one sample, got {conditioning.batch}")


def _check_dtype(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in (MASK_DTYPES if name.endswith("_mask") else STATE_DTYPES):
        raise ValueError(f"{name} cannot be of {tensor.dtype}; save it as torch.float32")


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def collate(conditionings: Sequence[Conditioning]) -> Conditioning:
    """Stack conditionings of batch 1; shorter texts are padded with zeros that masks leave out."""
    rows = [each.tensors() for each in conditionings]
    if len({frozenset(row) for row in rows}) > 1:
        raise ValueError("samples of one batch must have the same conditioning tensors")
    return Conditioning(**{name: _cat_padded([row[name] for row in rows]) for name in rows[0]})


def _cat_padded(tensors: Sequence[Tensor]) -> Tensor:
    longest = max(tensor.shape[1] for tensor in tensors)
    return torch.cat([_pad_second(tensor, longest) for tensor in tensors])


def _pad_second(tensor: Tensor, length: int) -> Tensor:
    after = [0, 0] * (tensor.ndim - 2)
    return F.pad(tensor, (*after, 0, length - tensor.shape[1]))


class SampleReader:
    """Finds samples by their positions in a run: here by the source's own method `at`."""

    def __init__(self, source: EndlessSource) -> None:
        self._source = source

    def read(self, positions: Sequence[int]) -> list[TrainingSample]:
        return [self.at(position) for position in positions]

    def at(self, position: int) -> TrainingSample:
        return self._source.at(position)

    def name(self, position: int) -> str:
        """Tell people which sample is at `position`."""
        return f"the sample at position {position}"


class ShuffledReader(SampleReader):
    """Reads a source of known length; the order of epoch e is drawn from (seed, e)."""

    def __init__(self, source: Sequence[TrainingSample], seed: int) -> None:
        if len(source) == 0:
            raise ValueError("the training data is empty")
        self._source, self._seed = source, seed
        self._epoch, self._order = -1, []

    def at(self, position: int) -> TrainingSample:
        return self._source[self._index(position)]

    def name(self, position: int) -> str:
        index = self._index(position)
        named = getattr(self._source, "name", lambda index: f"sample {index} of the training data")
        return named(index)

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, len(self._source))
        if epoch != self._epoch:
            numbers = generator("order", self._seed, epoch)
            order = torch.randperm(len(self._source), generator=numbers)
            self._epoch, self._order = epoch, order.tolist()
        return self._order[place]


class SequentialReader(SampleReader):
    """Reads any iterable forwards, and past the samples that are other ranks'."""

    def __init__(self, source: SampleSource) -> None:
        self._source = source
        self._samples = self._forever()
        self._next = 0

    def at(self, position: int) -> TrainingSample:
        if position < self._next:
            raise ValueError(
                f"position {position} is behind {self._next}: an iterable goes on only"
            )
        skipped = position - self._next
        self._next = position + 1
        return next(islice(self._samples, skipped, None))

    def _forever(self) -> Iterator[TrainingSample]:
        while True:
            empty = True
            for sample in self._source:
                empty = False
                yield sample
            if empty:
                raise ValueError("the training data is empty, or an iterator that can be read once")


def replace_rows(conditioning: Conditioning, other: Conditioning, chosen: Tensor) -> Conditioning:
    """Replace the rows of `conditioning` where `chosen [B]` is true by `other` (batch 1)."""
    theirs = other.to(chosen.device).tensors()
    if missing := conditioning.tensors().keys() - theirs.keys():
        raise ValueError(f"the unconditional conditioning lacks {', '.join(sorted(missing))}")
    mixed = {}
    for name, ours in conditioning.tensors().items():
        longest = max(ours.shape[1], theirs[name].shape[1])
        place = chosen.reshape(-1, *[1] * (ours.ndim - 1))
        mixed[name] = torch.where(
            place, _pad_second(theirs[name], longest), _pad_second(ours, longest)
        )
    return Conditioning(**mixed)


def repeat_rows(conditioning: Conditioning, batch: int) -> Conditioning:
    """Repeat a conditioning of batch 1 to `batch` equal rows, without copying."""
    rows = {
        name: each.expand(batch, *each.shape[1:]) for name, each in conditioning.tensors().items()
    }
    return Conditioning(**rows)
