"""FP8 files of every origin: value times scale in the model's dtype, wherever the scale is."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from disca_rt.weights.errors import CheckpointError, CheckpointWarning
from disca_rt.weights.inspect import inspect_checkpoint
from disca_rt.weights.load import load_dit
from golden_vectors import Golden, relative_error
from weights.fp8_writer import FP8, coded, is_coded, weights_of, write
from weights.layout_writers import comfyui_name, packed, split_for_tensor_parallel

ONE = torch.ones(1)


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


def scaled_inside(tensors: dict, suffix: str, by_row: bool) -> dict[str, torch.Tensor]:
    """Block linears in FP8, their scales in the same file."""
    found = {}
    for name, tensor in tensors.items():
        if not is_coded(name, tensor):
            found[name] = tensor
            continue
        largest = tensor.float().abs()
        largest = largest.amax(1, keepdim=True) if by_row else largest.max().reshape(1)
        scale = largest / torch.finfo(FP8).max
        found[name] = (tensor.float() / scale).clamp(-448, 448).to(FP8)
        found[name.removesuffix(".weight") + suffix] = scale
    return found


@pytest.mark.parametrize("fp8", [None, "weights"])
@pytest.mark.parametrize(
    ("suffix", "by_row", "spelt"),
    [
        (".scale_weight", False, lambda name: name),
        (".weight_scale", True, lambda name: name),
        (".weight_scale_inv", False, lambda name: name),
        (".scale_weight", False, lambda name: "model.diffusion_model." + comfyui_name(name)),
        (".scale_weight", True, lambda name: "model.model." + comfyui_name(name)),
    ],
    ids=["scalar", "rows", "inverse", "comfyui", "comfyui, rows"],
)
def test_scales_inside(
    tmp_path: Path, vectors: Golden, suffix: str, by_row: bool, spelt: Callable, fp8: str | None
) -> None:
    """Scales of q, k and v packed into one, and beside what FP8 products would take."""
    shutil.copy(vectors.folder / "config.json", tmp_path)
    inside = scaled_inside(packed(load_file(vectors.dit)), suffix, by_row)
    extra = {"scaled_fp8": torch.zeros(2).to(FP8), "double_blocks.0.img_mlp.fc1.scale_input": ONE}
    save_file({spelt(n): t for n, t in (inside | extra).items()}, tmp_path / "d.safetensors")
    assert inspect_checkpoint(tmp_path).encoding == "FP8, its scales inside"
    ours = load_dit(tmp_path, fp8=fp8)
    decoded = {
        name: tensor.bfloat16() * inside[name.removesuffix(".weight") + suffix].bfloat16()
        for name, tensor in inside.items()
        if name.endswith(".weight") and tensor.dtype == FP8
    }
    save_file(packed(load_file(vectors.dit)) | decoded, tmp_path / "d.safetensors")
    expected = load_dit(tmp_path, dtype=torch.bfloat16)
    for name, tensor in weights_of(ours).items():
        assert torch.equal(tensor, weights_of(expected)[name]), name


@pytest.mark.parametrize("scale", [None, torch.ones(3), torch.tensor([float("nan")])])
def test_a_scale_inside_that_is_of_no_use(
    folder: Path, vectors_10: Golden, scale: torch.Tensor | None
) -> None:
    inside = scaled_inside(load_file(vectors_10.dit), ".scale_weight", by_row=False)
    name = "single_blocks.0.linear2.scale_weight"
    inside = {n: t for n, t in inside.items() if n != name} | (
        {} if scale is None else {name: scale}
    )
    save_file(inside, folder / "d.safetensors")
    with pytest.raises(CheckpointError, match=r"1 FP8 tensors.*single_blocks\.0\.linear2\.weight"):
        load_dit(folder)


def test_a_scale_of_a_weight_that_is_not_fp8(folder: Path, vectors_10: Golden) -> None:
    inside = scaled_inside(load_file(vectors_10.dit), ".scale_weight", by_row=False)
    save_file(inside | {"img_in.proj.scale_weight": ONE}, folder / "d.safetensors")
    load_dit(folder)
    save_file(inside | {"img_in.proj.scale_weight": 2 * ONE}, folder / "d.safetensors")
    with pytest.raises(CheckpointError, match=r"1 scales .* not in FP8: img_in\.proj"):
        load_dit(folder)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("fp8", [None, "weights"])
def test_a_plain_cast_is_taken_as_it_is_and_said(
    folder: Path, vectors_10: Golden, dtype: torch.dtype, fp8: str | None
) -> None:
    """e5m2 is kept as e4m3 with a scale a row, which has one bit more and four fewer octaves."""
    tensors = load_file(vectors_10.dit)
    cast = {n: t.to(dtype) if is_coded(n, t) else t for n, t in tensors.items()}
    save_file(cast, folder / "d.safetensors")
    with pytest.warns(CheckpointWarning, match="29 FP8 tensors have no scales"):
        ours = load_dit(folder, fp8=fp8)
    for name, tensor in weights_of(ours).items():
        if dtype == FP8 or not fp8:
            assert torch.equal(tensor, cast[name].bfloat16()), name
        else:
            assert relative_error(tensor, cast[name]) < 2**-4
    assert inspect_checkpoint(folder).encoding == "FP8 without scales"


def test_inspect_needs_no_map(folder: Path, vectors_10: Golden) -> None:
    weights, _ = coded(load_file(vectors_10.dit))
    info = inspect_checkpoint(write(folder, weights, None))
    assert set(info.dtypes) == {"bfloat16", "float8_e4m3fn"}


def test_a_map_that_was_lost_is_missed(folder: Path, vectors_10: Golden) -> None:
    """Scaled values fill FP8's range, which no plain cast of weights does."""
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
