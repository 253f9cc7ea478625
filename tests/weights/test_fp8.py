"""Official FP8 weights: value times scale, both in the model's dtype, with the map beside them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from disca_rt.weights.errors import CheckpointError
from disca_rt.weights.inspect import inspect_checkpoint
from disca_rt.weights.load import load_dit
from golden_vectors import Golden
from weights.fp8_writer import FP8, coded, is_coded, write
from weights.layout_writers import split_for_tensor_parallel


@pytest.mark.parametrize("dtype", [None, torch.float32])
@pytest.mark.parametrize("split", [False, True])
def test_dequantised(
    folder: Path, vectors_10: Golden, dtype: torch.dtype | None, split: bool
) -> None:
    tensors = load_file(vectors_10.dit)
    weights, scales = coded(tensors)
    file_weights = split_for_tensor_parallel(weights) if split else weights
    dit = load_dit(write(folder, file_weights, scales), dtype=dtype)
    dtype = dtype or torch.bfloat16
    for name, tensor in dit.state_dict().items():
        expected = weights[name].to(dtype)
        if is_coded(name, tensors[name]):
            expected = expected * scales[name.removesuffix(".weight")].to(dtype)
        assert tensor.dtype == dtype
        assert torch.equal(tensor, expected), name


def test_scales_of_split_modules_by_their_own_names(folder: Path, vectors_10: Golden) -> None:
    weights, scales = coded(split_for_tensor_parallel(load_file(vectors_10.dit)))
    dit = load_dit(write(folder, weights, scales))
    k = weights["double_blocks.0.img_attn_k.weight"].bfloat16()
    expected = k * scales["double_blocks.0.img_attn_k"]
    assert torch.equal(dit.double_blocks[0].img_attn_qkv.weight[64:128], expected)


def test_map_beside_safetensors(folder: Path, vectors_10: Golden) -> None:
    weights, scales = coded(load_file(vectors_10.dit))
    save_file(weights, folder / "dit_fp8.safetensors")
    torch.save(scales, folder / "dit_fp8_map.pt")
    assert load_dit(folder / "dit_fp8.safetensors").dtype == torch.bfloat16


def test_inspect_needs_no_map(folder: Path, vectors_10: Golden) -> None:
    weights, _ = coded(load_file(vectors_10.dit))
    info = inspect_checkpoint(write(folder, weights, None))
    assert set(info.dtypes) == {"bfloat16", "float8_e4m3fn"}


def test_missing_map(folder: Path, vectors_10: Golden) -> None:
    weights, _ = coded(load_file(vectors_10.dit))
    with pytest.raises(CheckpointError, match=r"states_fp8_map\.pt is not there"):
        load_dit(write(folder, weights, None))


@pytest.mark.parametrize("bad", [None, "x", torch.tensor(float("nan")), torch.ones(3)])
def test_map_of_another_checkpoint(folder: Path, vectors_10: Golden, bad: object) -> None:
    weights, scales = coded(load_file(vectors_10.dit))
    scales["single_blocks.2.linear2"] = bad
    del scales["double_blocks.0.img_mlp.fc1"]
    with pytest.raises(CheckpointError, match="for 2 FP8 tensors") as caught:
        load_dit(write(folder, weights, scales))
    assert "double_blocks.0.img_mlp.fc1.weight" in str(caught.value)
    assert "single_blocks.2.linear2.weight" in str(caught.value)


def test_nan_in_fp8(folder: Path, vectors_10: Golden) -> None:
    weights, scales = coded(load_file(vectors_10.dit))
    name = "single_blocks.0.linear1.weight"
    damaged = weights[name].view(torch.uint8).clone()
    damaged[5, 5] = 0x7F  # NaN in e4m3fn
    weights[name] = damaged.view(FP8)
    with pytest.raises(CheckpointError, match=f"not finite.*{name}"):
        load_dit(write(folder, weights, scales))
