"""A format of files that nothing knows of is a reader and a row: here tensors in NumPy's .npz."""

from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor

from disca_rt.weights.checkpoint import open_checkpoint
from disca_rt.weights.errors import CheckpointError
from disca_rt.weights.files import choose
from disca_rt.weights.files.choose import Format
from disca_rt.weights.files.tensor_file import StoredSpec


class Npz:
    def __init__(self, path: Path) -> None:
        self._arrays = numpy.load(path)
        self.specs = {
            name: StoredSpec(array.shape, str(array.dtype)) for name, array in self._arrays.items()
        }

    def read(self, name: str) -> Tensor:
        return torch.from_numpy(self._arrays[name])


def test_a_row_reads_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.npz"
    numpy.savez(path, weight=numpy.arange(6.0).reshape(2, 3))
    with pytest.raises(CheckpointError, match=r"zip archive that torch.save did not write"):
        open_checkpoint(path)
    row = Format(lambda path, start: path.suffix == ".npz", Npz)
    monkeypatch.setattr(choose, "FORMATS", (row, *choose.FORMATS))
    checkpoint = open_checkpoint(path)
    assert checkpoint.specs == {"weight": StoredSpec((2, 3), "float64")}
    assert torch.equal(checkpoint.read("weight"), torch.arange(6.0).double().view(2, 3))
