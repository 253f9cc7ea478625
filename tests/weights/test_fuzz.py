"""Truncated and damaged files load or raise CheckpointError, and nothing else happens."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from disca_rt.weights.errors import CheckpointError
from disca_rt.weights.load import load_dit, load_predictor
from golden_vectors import load_golden
from weights.layout_writers import write_sharded

EDGE = 6000  # bytes at either end, where the headers are
VECTORS = load_golden("hyvideo10")
FUZZ = settings(
    max_examples=90, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A truncation, or a few bytes overwritten, most of them in the headers."""
    places = st.one_of(
        st.floats(0, 1, exclude_max=True), st.integers(0, EDGE), st.integers(-EDGE, -1)
    )
    edits = draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=6))
    cut = draw(st.none() | places)

    def damage(content: bytes) -> bytes:
        damaged = bytearray(content)
        for place, value in edits:
            damaged[_position(place, len(damaged))] = value
        return bytes(damaged if cut is None else damaged[: _position(cut, len(damaged))])

    return damage


def _position(place: float | int, size: int) -> int:
    return int(place * size) if isinstance(place, float) else place % size


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    torch.save({"module": load_file(VECTORS.predictor), "step": 7}, folder / "predictor.pt")
    write_sharded(folder, load_file(VECTORS.predictor))
    (folder / "config.json").write_bytes((VECTORS.folder / "config.json").read_bytes())
    return folder


@FUZZ
@given(damage=damages())
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, about the damaged pickle
@pytest.mark.parametrize(
    ("load", "whole"),
    [
        (load_predictor, VECTORS.predictor),
        (load_predictor, "predictor.pt"),
        (load_predictor, "model.safetensors.index.json"),
        (load_dit, VECTORS.dit),
    ],
)
def test_a_damaged_file(
    files: Path, load: Callable, whole: Path | str, damage: Callable[[bytes], bytes]
) -> None:
    whole = files / whole
    damaged = files / f"damaged{''.join(whole.suffixes)}"
    damaged.write_bytes(damage(whole.read_bytes()))
    with suppress(CheckpointError):
        load(damaged)


@settings(FUZZ, max_examples=60)
@given(
    shape=st.lists(st.integers(0, 2**62), max_size=6),
    name=st.sampled_from(["fusion_mlp.0.weight", "mm_single_blocks.0.q_norm.weight"]),
    block=st.integers(0, 10**30),
)
def test_absurd_headers(files: Path, shape: list[int], name: str, block: int) -> None:
    header = {
        name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 2]},
        f"mm_single_blocks.{block}.k_norm.weight": {
            "dtype": "BF16",
            "shape": [1],
            "data_offsets": [2, 4],
        },
    }
    text = json.dumps(header).encode()
    path = files / "absurd.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 4)
    with pytest.raises(CheckpointError):
        load_predictor(path)
