"""Weights that stay in FP8: bit by bit those decoded at loading, in half the memory."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from disca_rt.attention.local import LocalAttention
from disca_rt.kernels.ops import get_ops
from disca_rt.models.blocks import run_blocks
from disca_rt.models.dit import DiT
from disca_rt.models.linear import Fp8Linear, Linear, fp8_linears
from disca_rt.pipeline.runtime import Runtime
from disca_rt.schedule import preset
from disca_rt.tokens import StepContext, TokenLayout
from disca_rt.weights.errors import CheckpointError
from disca_rt.weights.load import load_dit
from golden_vectors import Golden
from weights.fp8_writer import FP8, coded, is_coded, weights_of, write
from weights.layout_writers import split_for_tensor_parallel

LAST = preset(2, 5.0, (0,))  # a full step and a predicted one


def official(vectors: Golden, folder: Path, split: bool = False) -> Path:
    """`vectors`' DiT as an official FP8 checkpoint, tensor-parallel if `split`."""
    shutil.copy(vectors.folder / "config.json", folder)
    tensors = load_file(vectors.dit)
    return write(folder, *coded(split_for_tensor_parallel(tensors) if split else tensors))


def assert_same(coded_dit: DiT, decoded: DiT) -> None:
    ours, theirs = weights_of(coded_dit), weights_of(decoded)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_an_official_checkpoint_gives_the_same_bits(
    vectors: Golden, tmp_path: Path, dtype: torch.dtype
) -> None:
    file = official(vectors, tmp_path)
    both = [
        Runtime.load(file, vectors.predictor, dtype=dtype, fp8=fp8) for fp8 in ("weights", None)
    ]
    assert_same(both[0].dit, both[1].dit)
    coded_tensors = {name for name, t in load_file(vectors.dit).items() if is_coded(name, t)}
    assert {f"{name}.weight" for name in fp8_linears(both[0].dit)} == coded_tensors
    assert {each.quantized.dtype for each in fp8_linears(both[0].dit).values()} == {FP8}
    shape = tuple(vectors.io["latents"].shape[1:])
    ours, theirs = (
        each.sample(vectors.conditioning, schedule=LAST, policy="disca", latent_shape=shape)
        for each in both
    )
    assert torch.equal(ours.latents, theirs.latents)


def test_rows_of_a_split_checkpoint_keep_their_own_scales(
    vectors_10: Golden, tmp_path: Path
) -> None:
    file = official(vectors_10, tmp_path, split=True)
    ours = load_dit(file, fp8="weights")
    assert_same(ours, load_dit(file))
    assert ours.double_blocks[0].img_attn_qkv.scale.unique().numel() == 3


def test_fused_ops_give_the_same_bits(vectors_10: Golden, tmp_path: Path) -> None:
    """A block of each kind; without a GPU in Triton's interpreter."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ops, file = get_ops("triton", device), official(vectors_10, tmp_path)
    given = {"ops": ops, "attention": LocalAttention("math"), "device": device}
    both = [load_dit(file, dtype=torch.float32, fp8=f, **given) for f in ("weights", None)]
    hidden, head = both[0].config.hidden, both[0].config.head_dim
    generator = torch.Generator().manual_seed(0)
    drawn = [(1, 9, hidden), (1, hidden), (6, head // 2), (6, head // 2)]
    tokens, *rest = (torch.randn(each, generator=generator).to(device) for each in drawn)
    context = StepContext(*rest, TokenLayout(6, None))
    outs = [run_blocks([m.double_blocks[0], m.single_blocks[0]], tokens, context) for m in both]
    assert torch.equal(*outs)


def test_only_the_rows_in_use_are_decoded(vectors_10: Golden, tmp_path: Path) -> None:
    linear1 = load_dit(official(vectors_10, tmp_path), fp8="weights").single_blocks[0].linear1
    for index, which in enumerate(("q", "k", "v", "extra")):
        weight, bias = linear1.rows[which].dense()
        width = linear1.in_features
        stop = linear1.out_features if which == "extra" else (index + 1) * width
        assert torch.equal(weight, linear1.dense()[0][index * width : stop])
        assert weight.untyped_storage().nbytes() == weight.nbytes, "the storage has other rows"
        assert len(bias) == len(weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_checkpoint_in_bf16_is_coded_within_what_fp8_can_hold(
    vectors: Golden, dtype: torch.dtype
) -> None:
    """e4m3 has 3 bits after the point: rounding is within 2⁻⁴ of a value, from 2⁻⁶ on.

    Below, where it is subnormal, within 2⁻¹⁰ of the scale. The scale is rounded to the dtype, and
    so is what is decoded: 2⁻⁹ of it in bf16, of at most 17/16 of the value.
    """
    ours = fp8_linears(load_dit(vectors.dit, dtype=dtype, fp8="weights"))
    for name, tensor in load_file(vectors.dit).items():
        if is_coded(name, tensor):
            tensor, linear = tensor.double(), ours[name.removesuffix(".weight")]
            bound = (2**-4 + 17 / 16 * 2**-9) * tensor.abs() + 2**-10 * linear.scale.double()
            error = (linear.dense()[0].double() - tensor).abs()
            assert (error <= bound).all(), name
            assert error.max() > 0
            largest = tensor.abs().amax(dim=1, keepdim=True)
            torch.testing.assert_close(linear.scale.double() * 448, largest, rtol=2**-8, atol=0)


def test_rows_of_zeros_and_of_tiny_values_are_coded() -> None:
    linear = Fp8Linear(Linear(4, 3).half())
    weight = torch.tensor([[0.0] * 4, [1e-7, -1e-7, 0, 6e-8], [1.0, -2.0, 3.0, 448.0]])
    given = weight.clone()
    linear.quantize(slice(None), given)
    assert torch.equal(given, weight), "what is given is left as it was"
    decoded, _ = linear.dense()
    assert torch.equal(decoded[0], torch.zeros(4, dtype=torch.float16))
    assert torch.equal(decoded[2], weight[2].half())
    assert (decoded[1] - weight[1]).abs().max() <= 2**-24  # half a subnormal, 2⁻⁹ of the scale 2⁻¹⁴


def test_values_that_are_not_finite_are_refused(folder: Path, vectors_10: Golden) -> None:
    tensors = load_file(vectors_10.dit)
    for name, value in (("fc1", float("nan")), ("fc2", float("inf"))):
        tensors[f"double_blocks.0.img_mlp.{name}.weight"][3, 5] = value
    save_file(tensors, folder / "dit.safetensors")
    with pytest.raises(CheckpointError, match="2 tensors have values that are not finite"):
        load_dit(folder / "dit.safetensors", fp8="weights")
