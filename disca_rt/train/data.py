"""What a run learns from: samples of latents and conditioning, found again by their position.

A source is any iterable of `(latents [C, T, H, W], conditioning of batch 1)`. One that makes the
sample of any position, with `at(position)`, is asked for it; one that has `__getitem__` and
`__len__` is read in place and shuffled anew each epoch; any other is read in its own order, from
its beginning again once it is used up. Position p of a run is the same sample on any number of
ranks, and after any interruption.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..conditioning import Conditioning
from ..config import DiTConfig
from ..seeds import generator

Sample = tuple[Tensor, Conditioning]


class EndlessSource(Protocol):
    """Has a sample for every position of a run."""

    def at(self, position: int) -> Sample: ...


SampleSource = Iterable[Sample] | EndlessSource


class Batch(NamedTuple):
    """`latents [B, C, T, H, W]` fp32 and the conditioning of each row; `positions [B]` int64."""

    latents: Tensor
    conditioning: Conditioning
    positions: Tensor

    def to(self, device: torch.device | str) -> "Batch":
        return Batch(self.latents.to(device), self.conditioning.to(device), self.positions)


class SampleReader(Protocol):
    """Gives the samples at positions of the run; a sequential one only at later and later ones."""

    def read(self, positions: Sequence[int]) -> list[Sample]: ...


def check_source(source: SampleSource, model: DiTConfig) -> None:
    """ValueError where `source` has samples that `model` does not take, as far as it can tell."""
    if isinstance(source, LatentShards):
        source.check(model)


def make_reader(source: SampleSource, seed: int) -> SampleReader:
    """The reader that suits `source`."""
    if hasattr(source, "at"):
        return EndlessReader(source)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return ShuffledReader(source, seed)
    return SequentialReader(source)


def read_batch(reader: SampleReader, positions: Sequence[int]) -> Batch:
    """The samples at `positions`, texts padded to the longest."""
    latents, conditionings = zip(*reader.read(positions), strict=True)
    shapes = {tuple(each.shape) for each in latents}
    if len(shapes) > 1:
        raise ValueError(f"latents of one batch must have one shape, got {sorted(shapes)}")
    return Batch(
        torch.stack(latents).float(), collate(conditionings), torch.tensor(list(positions))
    )


def collate(conditionings: Sequence[Conditioning]) -> Conditioning:
    """One conditioning of all rows; token sequences are padded with zeros, masked out."""
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


class EndlessReader:
    """Of a source that makes the sample of any position with `at`, such as drawn clips."""

    def __init__(self, source: EndlessSource) -> None:
        self._source = source

    def read(self, positions: Sequence[int]) -> list[Sample]:
        return [self._source.at(position) for position in positions]


class ShuffledReader:
    """Of a source of known length: epoch e reads it in an order drawn from (seed, e)."""

    def __init__(self, source: Sequence[Sample], seed: int) -> None:
        if len(source) == 0:
            raise ValueError("the training data is empty")
        self._source, self._seed = source, seed
        self._epoch, self._order = -1, []

    def read(self, positions: Sequence[int]) -> list[Sample]:
        return [self._source[self._index(position)] for position in positions]

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, len(self._source))
        if epoch != self._epoch:
            numbers = generator("order", self._seed, epoch)
            order = torch.randperm(len(self._source), generator=numbers)
            self._epoch, self._order = epoch, order.tolist()
        return self._order[place]


class SequentialReader:
    """Of any iterable, read forwards; a rank walks past the samples of the others."""

    def __init__(self, source: SampleSource) -> None:
        self._source = source
        self._samples = self._forever()
        self._next = 0

    def read(self, positions: Sequence[int]) -> list[Sample]:
        return [self._at(position) for position in positions]

    def _at(self, position: int) -> Sample:
        if position < self._next:
            raise ValueError(
                f"position {position} is behind {self._next}: an iterable goes on only"
            )
        skipped = position - self._next
        self._next = position + 1
        return next(islice(self._samples, skipped, None))

    def _forever(self) -> Iterator[Sample]:
        while True:
            empty = True
            for sample in self._source:
                empty = False
                yield sample
            if empty:
                raise ValueError("the training data is empty, or an iterator that can be read once")


class LatentShards:
    """Pre-encoded samples: `*.safetensors` files in a folder, each with N of them.

    Tensors: `latents [N, C, T, H, W]` and the conditioning's by their names, `[N, ...]`. Nothing is
    held: a sample is read from its mapped file when it is asked for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = sorted(folder.glob("*.safetensors"))
        if not self._files:
            raise ValueError(f"no *.safetensors files in {folder}")
        self._starts = [0]
        for path in self._files:
            self._starts.append(self._starts[-1] + _shard_length(path))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        shard = max(i for i in range(len(self._files)) if self._starts[i] <= index)
        row = index - self._starts[shard]
        with safe_open(self._files[shard], "pt") as file:
            tensors = {name: file.get_slice(name)[row : row + 1] for name in file.keys()}  # noqa: SIM118
        latents = tensors.pop("latents")[0]
        return latents.float(), Conditioning(**tensors)

    def check(self, model: DiTConfig) -> None:
        """ValueError names the first shard whose samples `model` does not take, and why."""
        for path, start, end in zip(self._files, self._starts, self._starts[1:], strict=False):
            if start == end:
                continue
            latents, conditioning = self[start]  # stands for all of its shard
            try:
                conditioning.validate(model)
                if len(latents) != model.in_channels:
                    raise ValueError(
                        f"latents must have {model.in_channels} channels, got {len(latents)}"
                    )
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))


def _shard_length(path: Path) -> int:
    """The N of a shard; ValueError names the file and what does not fit."""
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    lengths = {name: shape[0] if shape else 0 for name, shape in shapes.items()}
    known = {"latents", *Conditioning.__dataclass_fields__}
    if missing := {"latents", "text_states", "text_mask"} - lengths.keys():
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}")
    if unknown := lengths.keys() - known:
        raise ValueError(f"{path} has tensors that are not known: {', '.join(sorted(unknown))}")
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{path} has tensors of different lengths: {lengths}")
    if len(shapes["latents"]) != 5:
        raise ValueError(f"latents in {path} must be [N, C, T, H, W], got {shapes['latents']}")
    return lengths["latents"]


def replace_rows(conditioning: Conditioning, other: Conditioning, chosen: Tensor) -> Conditioning:
    """`conditioning` with the rows where `chosen [B]` is true taken from `other` (batch 1)."""
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
    """A conditioning of batch 1, `batch` times."""
    return Conditioning(
        **{
            name: tensor.expand(batch, *tensor.shape[1:])
            for name, tensor in conditioning.tensors().items()
        }
    )
