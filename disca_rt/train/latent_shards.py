"""Pre-encoded training data on disk: a folder of shards, checked before a run begins."""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..conditioning import Conditioning
from ..config import DiTConfig
from .data import TrainingSample, check_sample


class LatentShards:
    """Samples in the `*.safetensors` files of a folder, N in each.

    Tensors: `latents [N, C, T, H, W]` and the conditioning's by their names, `[N, ...]`. Nothing is
    held: a sample is read from its mapped file when it is asked for. ValueError names a file that
    is no such shard.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = sorted(folder.glob("*.safetensors"))
        if not self._files:
            raise ValueError(f"no *.safetensors files in {folder}")
        self._shapes = [_latents_shape(path) for path in self._files]
        self._starts = list(accumulate((shape[0] for shape in self._shapes), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> TrainingSample:
        path, row = self._place(index)
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_slice(name)[row : row + 1] for name in file.keys()}  # noqa: SIM118
        latents = tensors.pop("latents")[0]
        return latents, Conditioning(**tensors)

    def __iter__(self) -> Iterator[TrainingSample]:
        return (self[index] for index in range(len(self)))

    def name(self, index: int) -> str:
        """Tell people where a sample lies: its shard, and its row there from 0 on."""
        path, row = self._place(index)
        return f"{path}, row {row}"

    def check(self, model: DiTConfig, micro_batch: int) -> None:
        """Raise ValueError naming a shard that `model` does not take, as far as one sample tells.

        Shards of several sizes are taken where `micro_batch`, the samples of one forward, is 1.
        """
        filled = [n for n, shape in enumerate(self._shapes) if shape[0]]
        for shard in filled:
            try:
                check_sample(*self[self._starts[shard]], model)
            except ValueError as error:
                raise ValueError(f"{self.name(self._starts[shard])}: {error}") from error
        sizes = {tuple(self._shapes[shard][1:]): self._files[shard].name for shard in filled}
        if len(sizes) > 1 and micro_batch > 1:
            told = ", ".join(f"{list(size)} in {name}" for size, name in sizes.items())
            raise ValueError(
                f"{self.folder} has latents of several sizes, {told}, and a forward takes one "
                "size; choose micro_batch 1"
            )

    def _place(self, index: int) -> tuple[Path, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        shard = bisect_right(self._starts, index) - 1
        return self._files[shard], index - self._starts[shard]


def _latents_shape(path: Path) -> list[int]:
    """Read the shape of a shard's latents; ValueError names the file and what does not fit."""
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
    return shapes["latents"]
