"""FlashAttention's packages, by stand-ins with the signatures of the real ones; and who chooses."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from disca_rt.attention.backends import (
    BACKENDS,
    Backend,
    automatic,
    get_backend,
    read_orders,
    settled,
)
from disca_rt.attention.flash_packages import flash_function
from disca_rt.attention.fp8 import FP8_KERNELS
from disca_rt.attention.local import LocalAttention
from disca_rt.attention.partial import Partial, merge
from disca_rt.attention.protocol import NoOverlap
from disca_rt.attention.tuning import measure, winners
from disca_rt.kernels.launch_table import ELSEWHERE, forget_table
from disca_rt.kernels.tune import Timing
from disca_rt.kernels.workload import SMALL
from disca_rt.tokens import TokenLayout

PACKAGES = [n for n, row in BACKENDS.items() if row.install and n not in FP8_KERNELS]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
MODULES = {
    "fa2": "flash_attn",
    "fa3": "flash_attn_interface",
    "fa3-fwd": "fa3_fwd_interface",
    "fa4": "flash_attn.cute",
}


def exact(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The output `[B, S, H, D]` in the dtype of `q`, and the logarithms `[B, H, S]` fp32."""
    scores = torch.einsum("bshd,bthd->bhst", q.double(), k.double()) * scale
    out = torch.einsum("bhst,bthd->bshd", scores.softmax(-1), v.double())
    return out.to(q.dtype), scores.logsumexp(-1).float()


def fa2(calls: list[dict]) -> Callable[..., Any]:
    """The function of flash-attn 2.8."""

    def flash_attn_func(
        q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1),
        softcap=0.0, alibi_slopes=None, deterministic=False, return_attn_probs=False,
    ):  # fmt: skip
        calls.append({"dropout_p": dropout_p, "causal": causal, "shape": q.shape})
        out, lse = exact(q, k, v, softmax_scale)
        return (out, lse, None) if return_attn_probs else out

    return flash_attn_func


def fa3(calls: list[dict], is_old: bool = False) -> Callable[..., Any]:
    """The function of fa3-fwd 0.0.3; before 2025-08 the hopper folder's returned both always."""

    def flash_attn_func(
        q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None,
        v_descale=None, window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1,
        pack_gqa=None, deterministic=False, sm_margin=0, return_attn_probs=False,
    ):  # fmt: skip
        calls.append({"qv": qv, "causal": causal, "shape": q.shape})
        out, lse = exact(q, k, v, softmax_scale)
        return (out, lse) if return_attn_probs or is_old else out

    return flash_attn_func


def fa3_with_lengths(
    q, k_cache, v_cache, k=None, v=None, qv=None, rotary_cos=None, rotary_sin=None,
    cache_seqlens=None, cache_batch_idx=None, cache_leftpad=None, page_table=None,
    cu_seqlens_q=None, cu_seqlens_k_new=None, max_seqlen_q=None, rotary_seqlens=None,
    q_descale=None, k_descale=None, v_descale=None, softmax_scale=None, causal=False,
    window_size=(-1, -1), attention_chunk=0, softcap=0.0, rotary_interleaved=True,
    scheduler_metadata=None, num_splits=0, pack_gqa=None, sm_margin=0, return_softmax_lse=False,
):  # fmt: skip
    """The function `flash_attn_with_kvcache` of fa3-fwd 0.0.3."""
    return of_each(q, k_cache, v_cache, cache_seqlens, softmax_scale, num_splits)


def fa4_with_lengths(
    q, k, v, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None,
    seqused_q=None, seqused_k=None, page_table=None, softmax_scale=None, causal=False,
    window_size=(None, None), learnable_sink=None, softcap=0.0, num_splits=1, return_lse=False,
):  # fmt: skip
    """The function `flash_attn_varlen_func` of flash-attn-4."""
    return of_each(q, k, v, seqused_k, softmax_scale, num_splits), None


def of_each(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, scale: float, num_splits: int
) -> Tensor:
    assert (lengths.dtype, num_splits) == (torch.int32, 1)
    rows = zip(q.split(1), k.split(1), v.split(1), lengths.tolist(), strict=True)
    return torch.cat([exact(q, k[:, :n], v[:, :n], scale)[0] for q, k, v, n in rows])


def fa4(calls: list[dict]) -> Callable[..., Any]:
    """The function of flash-attn-4 4.0.0b36."""

    def flash_attn_func(
        q, k, v, qv=None, gather_kv_indices=None, softmax_scale=None, causal=False,
        window_size=(None, None), learnable_sink=None, softcap=0.0, num_splits=1, pack_gqa=None,
        deterministic=False, score_mod=None, score_mod_bwd=None, mask_mod=None, aux_tensors=None,
        aux_scalars=None, block_sparse_tensors=None, block_sparse_tensors_bwd=None,
        return_lse=False, gather_bwd_recompute_p=False, gather_bwd_token_chunk=None,
    ):  # fmt: skip
        calls.append({"qv": qv, "causal": causal, "shape": q.shape})
        out, lse = exact(q, k, v, softmax_scale)
        return out, (lse if return_lse else None)

    return flash_attn_func


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hides packages that this machine may have, and lets stand-ins run on a CPU."""
    for module in (*MODULES.values(), "flash_attn"):
        monkeypatch.setitem(sys.modules, module, None)
    for name in PACKAGES:
        monkeypatch.setitem(BACKENDS, name, replace(BACKENDS[name], devices=("cpu",)))
    flash_function.cache_clear()
    yield
    flash_function.cache_clear()
    forget_table()


def install(monkeypatch: pytest.MonkeyPatch, name: str, function: Callable[..., Any]) -> None:
    module = ModuleType(MODULES[name])
    module.flash_attn_func = function
    monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))
    monkeypatch.setitem(sys.modules, MODULES[name], module)


def qkv(dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, rows, 3, 16, generator=generator).to(dtype) for rows in (9, 7, 7))


def attended(backend: str, valid: Tensor | None = None, dtype: torch.dtype = torch.bfloat16):
    q, k, v = qkv(dtype)
    return get_backend(backend)(q, k, v, valid)


@pytest.mark.parametrize("name", MODULES)
def test_a_package_is_called_as_it_wants(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict] = []
    install(monkeypatch, name, {"fa2": fa2, "fa4": fa4}.get(name, fa3)(calls))
    backend = name.removesuffix("-fwd")
    q, k, v = qkv()
    wanted, lse = exact(q, k, v, 16**-0.5)
    assert torch.equal(attended(backend), wanted)
    part = get_backend(backend).with_lse(q, k, v, None)
    assert torch.equal(part.out, wanted)
    assert torch.equal(part.lse, lse.transpose(1, 2))
    assert [call["causal"] for call in calls] == [False, False]
    assert {call["shape"] for call in calls} == {(2, 9, 3, 16)}, "tokens before heads"


@pytest.mark.parametrize("name", ["fa3", "fa3-fwd", "fa4"])
def test_lengths_are_read_on_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, name, fa4([]) if name == "fa4" else fa3([]))
    module, backend = sys.modules[MODULES[name]], name.removesuffix("-fwd")
    module.flash_attn_with_kvcache = fa3_with_lengths
    module.flash_attn_varlen_func = fa4_with_lengths
    attention = LocalAttention(backend)
    assert attention.takes_lengths(16, torch.bfloat16, CPU)
    assert not attention.takes_lengths(16, torch.float32, CPU)
    q, k, v = qkv()
    lengths = torch.tensor([7, 4], dtype=torch.int32)
    wanted = of_each(q, k, v, lengths, 0.25, 1)
    assert torch.equal(staged(backend, q, k, v, lengths), wanted.flatten(2))
    install(monkeypatch, "fa2", fa2([]))
    flash_function.cache_clear()
    assert not LocalAttention("fa2").takes_lengths(16, torch.bfloat16, CPU)
    with pytest.raises(ValueError, match=r"fa2 cannot read lengths on cpu .* give it a mask"):
        get_backend("fa2").with_lengths(q, k, v, lengths)


def test_the_staged_interface_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "fa2", fa2([]))
    q, k, v = qkv()
    assert torch.equal(staged("fa2", q, k, v), exact(q, k, v, 0.25)[0].flatten(2))


def staged(backend: str, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None) -> Tensor:
    handle = LocalAttention(backend).begin(TokenLayout(5, lengths))
    handle.put_v(v)
    handle.put_k(k)
    handle.put_q(q)
    return handle.result(NoOverlap())


def test_an_old_fa3_returns_more(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "fa3", fa3([], is_old=True))
    assert torch.equal(attended("fa3"), exact(*qkv(), 0.25)[0])


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is not here .*") as refused:
        LocalAttention(name)
    said = str(refused.value)
    assert said.endswith(f": pip install {BACKENDS[name].pip or BACKENDS[name].install}")
    assert "\n" not in said


def test_a_package_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """FA4 alone leaves a `flash_attn` without the function of FA2."""
    install(monkeypatch, "fa4", fa4([]))
    assert BACKENDS["fa4"].missing() is None
    with pytest.raises(ValueError, match="has no attribute 'flash_attn_func'"):
        get_backend("fa2")


@pytest.mark.parametrize(
    ("valid", "dtype", "devices"),
    [
        (torch.ones(2, 7, dtype=torch.bool), torch.bfloat16, ("cpu",)),
        (None, torch.float32, ("cpu",)),
        (None, torch.bfloat16, ("cuda",)),
    ],
)
def test_what_a_package_cannot_is_refused(
    valid: Tensor | None,
    dtype: torch.dtype,
    devices: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, "fa2", fa2([]))
    monkeypatch.setitem(BACKENDS, "fa2", replace(BACKENDS["fa2"], devices=devices))
    with pytest.raises(ValueError, match=r"fa2 cannot run on cpu .* choose sdpa"):
        attended("fa2", valid, dtype)
    with pytest.raises(ValueError, match=r"fa2 cannot (run on cpu .* choose sdpa|leave out pad)"):
        get_backend("fa2").with_lse(*qkv(dtype), valid)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """Writes what was measured of heads of 16 on a GPU."""
    path = tmp_path / "table.json"
    monkeypatch.setenv(ELSEWHERE, str(path))
    monkeypatch.setattr("disca_rt.attention.backends.table_name", lambda device: "NVIDIA Abacus")

    def write(order: list[str]) -> None:
        path.write_text(json.dumps({"NVIDIA Abacus": {"attention": {"16": order}}}))
        forget_table()

    return write


def test_the_table_chooses_of_those_that_are_here(
    table: Callable[[list[str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    table(["fa3", "cudnn", "sdpa"])
    bf16 = torch.bfloat16
    assert automatic(16, bf16, GPU) == "cudnn"
    install(monkeypatch, "fa3-fwd", fa3([]))
    flash_function.cache_clear()
    assert automatic(16, bf16, GPU) == "fa3"
    assert automatic(64, bf16, GPU) == "sdpa", "not measured"
    assert automatic(16, torch.float32, GPU) == "sdpa"
    assert automatic(16, bf16, GPU, has_padding=True) == "sdpa"
    assert automatic(16, bf16, CPU) == "native"
    assert settled("auto", 16, bf16, GPU) == "fa3"
    monkeypatch.setitem(BACKENDS, "fa3", replace(BACKENDS["fa3"], devices=("cuda",)))
    assert BACKENDS["auto"].takes_lengths(16, bf16, GPU)
    assert not BACKENDS["auto"].takes_lengths(64, bf16, GPU), "sdpa does not"
    assert settled("math", 16, bf16, GPU) == "math"


def test_automatic_attention_is_what_it_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.equal(attended("auto"), attended("native"))
    install(monkeypatch, "fa2", fa2([]))
    monkeypatch.setattr("disca_rt.attention.backends.automatic", lambda *given, **more: "fa2")
    assert torch.equal(attended("auto"), exact(*qkv(), 0.25)[0])
    part = get_backend("auto").with_lse(*qkv(), None)
    assert torch.equal(part.out, exact(*qkv(), 0.25)[0])


@pytest.mark.parametrize("order", [[], ["fa9"], "fa3", [4, 8]])
def test_a_wrong_order_is_refused(order: object, table: Callable[[Any], None]) -> None:
    table(order)
    with pytest.raises(ValueError, match=r"attention, 16: must be some of \['sdpa'"):
        read_orders()


def test_what_is_here_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "fa2", fa2([]))
    ran = []

    def clock(call: Callable[[], Tensor]) -> float:
        ran.append(call().shape)
        return float(len(ran))

    def make(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.zeros(shape, dtype=dtype)

    one, shared = measure([SMALL], make, clock)
    assert (one.op, one.width, shared.shapes) == ("attention", 16, "small, 8 ranks")
    assert set(one.seconds) == {None, "sdpa", "flash", "fa2"}, "the others cannot run on a CPU"
    assert one.seconds[None] == one.seconds["sdpa"]
    assert ran == [(1, SMALL.tokens, 8, 16)] * 3 + [(1, SMALL.tokens, 1, 16)] * 3


def test_the_order_is_by_all_shapes() -> None:
    one = Timing("attention", "one", 16, {None: 3.0, "sdpa": 3.0, "fa2": 1.0, "cudnn": 2.0})
    two = Timing("attention", "two", 16, {None: 3.0, "sdpa": 3.0, "fa2": 4.0, "flash": 1.0})
    assert winners([one]) == {"16": ["fa2", "cudnn", "sdpa"]}
    assert winners([one, two]) == {"16": ["fa2", "sdpa"]}


def test_a_new_backend_is_one_row(
    table: Callable[[list[str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Staged attention, a ring, the automatic choice, `tune` and refusals know it by its row."""

    def attend_with_lse(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Partial:
        out, lse = exact(q, k, v, q.shape[-1] ** -0.5)
        return Partial(out, lse.transpose(1, 2))

    toy = Backend("toy", lambda *args: attend_with_lse(*args).out, attend_with_lse, padding=())
    monkeypatch.setitem(BACKENDS, "toy", toy)
    q, k, v = qkv(torch.float64)
    whole, _ = exact(q, k, v, 0.25)
    assert torch.equal(staged("toy", q, k, v), whole.flatten(2))
    ring = LocalAttention("toy").backend.with_lse
    parts = (ring(q, k[:, keys], v[:, keys], None) for keys in (slice(0, 3), slice(3, 7)))
    torch.testing.assert_close(merge(*parts).out.double(), whole, atol=1e-6, rtol=0)
    table(["toy", "sdpa"])
    assert automatic(16, torch.bfloat16, GPU) == "toy"
    zeros = measure([SMALL], lambda *shape: torch.zeros(shape), lambda call: float(call() is None))
    assert "toy" in next(zeros).seconds
    with pytest.raises(ValueError, match=r"toy cannot run on cpu .* and padding; choose sdpa"):
        toy(q, k, v, torch.ones(2, 7, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"must be one of \['auto', .*'fa4', .*'toy'\], got 'fa9'"):
        LocalAttention("fa9")
    with pytest.raises(ValueError, match=r"a ring of ranks needs .* out of .*'toy'\], got 'blunt'"):
        Backend("blunt", toy.attend).with_lse(q, k, v, None)
    monkeypatch.setitem(BACKENDS, "toy", replace(toy, attend_with_lse=None))
    assert automatic(16, torch.bfloat16, GPU, with_lse=True) == "sdpa", "a ring skips it"
