"""Attention in FP8: its arithmetic, and the packages that have it, by stand-ins for them."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from disca_rt.attention import cudnn_fp8, flash_packages, scaled
from disca_rt.attention.backends import BACKENDS, get_backend
from disca_rt.attention.fp8 import FP8_KERNELS, Heads, attend_decoded, fp8_kernel, quantized_heads
from disca_rt.attention.local import LocalAttention
from disca_rt.kernels.fp8_reference import rope_scale, scale_heads
from disca_rt.kernels.ops import get_ops
from golden_vectors import relative_error

CPU = torch.device("cpu")
SHAPE = 2, 9, 3, 16


@pytest.fixture
def heads() -> list[Heads]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in "qkv":
        x, scale = torch.randn(SHAPE, generator=generator), torch.zeros(2, 3)
        scale_heads(x, scale)
        made.append(quantized_heads(x, scale))
    return made


def decoded(heads: Heads) -> Tensor:
    return heads.values.double() * heads.scale.double()[:, None, :, None]


def exact(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None) -> Tensor:
    scores = torch.einsum("bshd,bthd->bhst", q, k) * q.shape[-1] ** -0.5
    if valid is not None:
        scores = scores.masked_fill(~valid[:, None, None], float("-inf"))
    return torch.einsum("bhst,bthd->bshd", scores.softmax(-1), v)


@pytest.mark.parametrize("has_padding", [False, True])
def test_what_is_rounded_are_inputs_and_the_weights_of_softmax(
    heads: list[Heads], has_padding: bool
) -> None:
    valid = torch.arange(9) < torch.tensor([9, 6])[:, None] if has_padding else None
    out = attend_decoded(*heads, valid, torch.float32)
    expected = exact(*map(decoded, heads), valid)
    assert 1e-4 < relative_error(out, expected) < 2**-4
    assert (out.double() - expected).abs().max() <= 2**-4 * decoded(heads[2]).abs().max()


def test_a_backend_of_the_table_scales_what_it_is_given() -> None:
    q, k, v = (torch.randn(SHAPE, generator=torch.Generator().manual_seed(i)) for i in range(3))
    out = get_backend("decoded-fp8")(q, k, 1e3 * v, None)
    assert relative_error(out, exact(*(x.double() for x in (q, k, 1e3 * v)))) < 2**-4


def test_a_model_takes_the_fastest_that_is_here() -> None:
    assert fp8_kernel("auto", CPU) is FP8_KERNELS["decoded-fp8"]
    assert fp8_kernel("sdpa", CPU) is None, "asked for, and in 16 bits"
    assert fp8_kernel("decoded-fp8", CPU) is FP8_KERNELS["decoded-fp8"]


def test_none_of_it_is_measured_or_chosen_for_models_in_16_bits() -> None:
    assert not any(BACKENDS[name].is_measured for name in FP8_KERNELS)


def test_a_norm_bounds_heads_however_they_lie() -> None:
    """One value has all of a head's norm; two of a pair share it, and turn into one."""
    weight = torch.linspace(-3, 2, 16)
    bound = rope_scale(weight, torch.ones(16)) * 448
    assert torch.allclose(bound, 3 * torch.tensor(16.0).sqrt())
    assert rope_scale(torch.zeros(16)) > 0


def test_flash_attention_takes_scales_of_heads(
    heads: list[Heads], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def flash_attn_func(q, k, v, softmax_scale=None, causal=False, **more) -> Tensor:
        calls.append(more)
        scaled = (Heads(x, more[f"{n}_descale"]) for n, x in zip("qkv", (q, k, v), strict=True))
        return exact(*map(decoded, scaled)).to(torch.bfloat16)

    monkeypatch.setattr(flash_packages, "flash_function", lambda modules, name: flash_attn_func)
    heads[0] = Heads(heads[0].values, heads[0].scale[:, :1])  # of all heads
    out = FP8_KERNELS["fa3-fp8"].attend(*heads, None, torch.bfloat16)
    assert relative_error(out, exact(*map(decoded, heads))) < 2**-7
    assert all(each.shape == (2, 3) for each in calls[0].values())


@pytest.mark.parametrize("leaves_out", [False, True])
def test_text_is_padded_for_captures_where_the_kernel_can_leave_it_out(
    leaves_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = FP8_KERNELS["decoded-fp8"]._replace(padding=leaves_out)
    monkeypatch.setattr(scaled, "fp8_kernel", lambda name, device: kernel)
    plain = LocalAttention("sdpa")
    monkeypatch.setattr(plain, "takes_lengths", lambda *given: True)
    attention = scaled.ScaledAttention(plain, get_ops("reference"), lambda: ((), ()))
    assert attention.takes_lengths(16, torch.bfloat16, CPU) == leaves_out


class _Tensor(SimpleNamespace):
    """A tensor of cuDNN's graph, whose setters give itself."""

    def __getattr__(self, name: str) -> Any:
        def setter(value: Any) -> "_Tensor":
            setattr(self, name.removeprefix("set_"), value)
            return self

        return setter


class _Graph:
    """cuDNN's graph: notes its tensors, and attends when it is executed."""

    built = 0

    def tensor(self, **described: Any) -> _Tensor:
        return _Tensor(**described)

    def sdpa_fp8(self, **given: Any) -> tuple[_Tensor | None, ...]:
        self.scale = given.pop("attn_scale")
        assert given.pop("generate_stats") is False
        self.inputs, self.out = given, _Tensor()
        return self.out, None, _Tensor(), _Tensor()

    def build(self, modes: list[str]) -> None:
        type(self).built += 1

    def get_workspace_size(self) -> int:
        return 0

    def execute(self, pack: dict[_Tensor, Tensor], workspace: Tensor, handle: object) -> None:
        given = {name: pack[tensor] for name, tensor in self.inputs.items()}
        q, k, v = (given[n].double() * given[f"descale_{n}"].double() for n in "qkv")
        weights = (q @ k.transpose(2, 3) * self.scale).softmax(-1)
        assert torch.allclose(given["descale_s"] * given["scale_s"], torch.ones(()))
        out = pack[self.out]
        assert list(out.shape) == self.out.dim
        assert list(out.stride()) == self.out.stride
        out.copy_((weights @ v * given["scale_o"].double()).clamp(-448, 448))


_Tensor.__hash__ = object.__hash__


@pytest.mark.parametrize("capability", [(9, 0), (10, 0)])
def test_cudnn_takes_one_scale_of_a_tensor(
    heads: list[Heads], monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]
) -> None:
    module = ModuleType("cudnn")
    module.data_type = SimpleNamespace(FP8_E4M3="e4m3", FLOAT="fp32", BFLOAT16="bf16")
    module.heur_mode = SimpleNamespace(A="A")
    module.create_handle = object
    module.set_stream = lambda handle, stream: None
    module.pygraph = lambda **given: _Graph()
    monkeypatch.setitem(sys.modules, "cudnn", module)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0))
    monkeypatch.setattr(cudnn_fp8, "OF_THREAD", SimpleNamespace())
    kernel = FP8_KERNELS["cudnn-fp8"]
    whole = []
    for each in heads:
        x, scale = decoded(each).float(), kernel.new_scale(each.values)
        assert scale.shape == (2, 1)
        scale_heads(x, scale)
        whole.append(quantized_heads(x, scale))
    before = _Graph.built
    out = kernel.attend(*whole, None, torch.bfloat16)
    assert _Graph.built == before + 1, "one graph for all samples"
    coarse = 2**-4 if capability == (9, 0) else 2**-7  # Hopper's output is e4m3
    assert relative_error(out, exact(*map(decoded, whole))) < coarse
