"""Our reader of .safetensors gives what the library's does, and says what is wrong with a file."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from disca_rt.weights.errors import CheckpointError
from disca_rt.weights.files.safetensors import SafetensorsFile
from disca_rt.weights.files.tensor_file import DTYPES

PAIR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(path: Path, header: object, data: bytes = bytes(8), pad: int = 0) -> Path:
    text = json.dumps(header).encode() + b" " * pad
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def same(left: Tensor, right: Tensor) -> bool:
    return left.dtype == right.dtype and torch.equal(
        left.view(torch.uint8), right.view(torch.uint8)
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_the_library_wrote(dtype: str, tmp_path: Path) -> None:
    drawn = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    tensors = {"a": drawn, "none": drawn[:0], "b.c": drawn[0]}
    tensors = {name: each.to(DTYPES[dtype]).clone() for name, each in tensors.items()}
    path = tmp_path / "file.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    file = SafetensorsFile(path)
    assert {name: (spec.shape, spec.dtype) for name, spec in file.specs.items()} == {
        name: (tuple(each.shape), dtype) for name, each in tensors.items()
    }
    for name, each in tensors.items():
        read = file.read(name)
        assert read.shape == each.shape
        assert same(read, each)


@pytest.mark.parametrize("pad", range(8))
def test_a_header_of_any_length(pad: int, tmp_path: Path) -> None:
    expected = torch.tensor([1.5, -2.0])
    data = bytes(expected.view(torch.uint8).tolist())
    file = SafetensorsFile(write(tmp_path / "file.safetensors", {"x": PAIR}, data, pad))
    assert torch.equal(file.read("x"), expected)


def test_a_scalar_and_a_dtype_that_no_model_has(tmp_path: Path) -> None:
    header = {
        "x": {"dtype": "I32", "shape": [1], "data_offsets": [4, 8]},
        "y": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
    }
    file = SafetensorsFile(write(tmp_path / "file.safetensors", header))
    assert file.specs["x"].dtype == "i32"
    assert file.read("y").shape == ()


@pytest.mark.parametrize(
    ("header", "data", "reason"),
    [
        ([PAIR], 8, "its header is a list"),
        ({"x": [1]}, 8, "x has no dtype or no shape"),
        ({"x": {**PAIR, "shape": [-2]}}, 8, r"x has dtype 'F32' and shape \[-2\]"),
        ({"x": {**PAIR, "shape": [2.0]}}, 8, "x has dtype"),
        ({"x": {**PAIR, "data_offsets": [8, 0]}}, 8, r"x has data_offsets \[8, 0\]"),
        ({"x": {**PAIR, "data_offsets": None}}, 8, "x has data_offsets None"),
        ({"x": {**PAIR, "shape": [3]}}, 8, r"x has 8 bytes for \[3\] of float32"),
        ({"x": PAIR, "y": PAIR}, 8, "where byte"),
        ({"x": {**PAIR, "data_offsets": [4, 12]}}, 12, "where byte"),
        ({"x": PAIR}, 7, "bytes are described, the file has"),
        ({"x": PAIR}, 9, "bytes are described, the file has"),
    ],
)
def test_a_damaged_header(header: object, data: int, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "file.safetensors", header, bytes(data))
    with pytest.raises(CheckpointError, match=reason):
        SafetensorsFile(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{}", "a header of 32123 bytes in a file of 2"),
        ((10).to_bytes(8, "little") + b"{}", "a header of 10 bytes in a file of 10"),
        ((2).to_bytes(8, "little") + b"{]", "Expecting property name"),
        ((14).to_bytes(8, "little") + b'{"x":1,"x":22}', "its header has a name twice"),
    ],
)
def test_no_header(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=reason):
        SafetensorsFile(path)
