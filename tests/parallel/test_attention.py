"""Attention over shared tokens is local attention: forward, gradients, ring, padding, chunks."""

import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import HashStore, ProcessGroup
from torch.utils.checkpoint import checkpoint

from disca_rt.attention.backends import get_backend
from disca_rt.attention.local import LocalAttention
from disca_rt.attention.partial import Partial, merge
from disca_rt.parallel.attention import RECENT, UlyssesAttention
from disca_rt.parallel.topology import Topology
from disca_rt.tokens import TokenLayout
from parallel.attention_worker import attend, differentiated
from parallel.launch import forked, passes

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4, 6])
def test_it_is_local_attention(ranks: int) -> None:
    passes(forked(ranks, HERE / "attention_worker.py"))


@pytest.fixture
def group() -> Iterator[ProcessGroup]:
    """Topology of this process alone, which sends everything to itself."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def over(group: ProcessGroup, chunks: int = 1) -> UlyssesAttention:
    return UlyssesAttention(Topology(group, timedelta(seconds=60)), LocalAttention(), chunks)


def tokens_of(text: int) -> tuple[TokenLayout, list[Tensor]]:
    generator = torch.Generator().manual_seed(text)
    v, k, q = (torch.randn(1, 20 + text, 6, 8, generator=generator) for _ in range(3))
    return TokenLayout(20, None, (20, text)), [v, k, q]


@torch.no_grad()
def test_buffers_of_the_last_texts_are_kept(group: ProcessGroup) -> None:
    ulysses, local = over(group), LocalAttention()
    begun = 0
    for text in (3, 4, 3, 5, 6, 7, 3):
        layout, inputs = tokens_of(text)
        torch.testing.assert_close(
            attend(ulysses, layout, inputs), attend(local, layout, inputs), atol=1e-6, rtol=0
        )
        begun += 4
        assert ulysses.begun == begun  # also those of schedulers that are gone
    kept = list(ulysses._recent.values())
    assert len(kept) == RECENT
    assert [each.scheduler.partition.txt_tokens for each in kept] == [7, 3]
    shared = ulysses.prepared(layout, inputs[0])
    assert shared is ulysses.prepared(layout, inputs[0])


def test_buffers_of_inference_mode_serve_outside_of_it(group: ProcessGroup) -> None:
    ulysses, (layout, inputs) = over(group, chunks=2), tokens_of(3)
    with torch.inference_mode():
        attend(ulysses, layout, inputs)
    with torch.no_grad():
        ours, local = attend(ulysses, layout, inputs), attend(LocalAttention(), layout, inputs)
    torch.testing.assert_close(ours, local, atol=1e-6, rtol=0)


def test_gathering_uses_nothing_deprecated(group: ProcessGroup) -> None:
    rows = torch.randn(2, 20, 3, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        gathered = over(group).sharding.gather(rows, TokenLayout(20, None, (20, 4)))
        gathered.backward(2 * torch.ones_like(gathered))
    assert torch.equal(gathered, rows)
    assert torch.equal(rows.grad, 2 * torch.ones_like(rows))


@pytest.mark.parametrize("chunks", [1, 3])
def test_an_attention_alone_is_checkpointed(chunks: int, group: ProcessGroup) -> None:
    layout, inputs = tokens_of(5)
    grad = torch.randn_like(inputs[0])
    ulysses = over(group, chunks)

    wanted = differentiated(LocalAttention(), layout, inputs, grad)
    leaves = [each.clone().requires_grad_() for each in inputs]
    out = checkpoint(lambda *parts: attend(ulysses, layout, parts), *leaves, use_reentrant=False)
    out.backward(grad.flatten(2))
    for ours, theirs in zip((out, *(leaf.grad for leaf in leaves)), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, valid: torch.Tensor | None) -> Partial:
    """Attention in fp64."""
    q, k, v = (each.double().transpose(1, 2) for each in (q, k, v))
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    if valid is not None:
        scores = scores.masked_fill(~valid[:, None, None], float("-inf"))
    return Partial((scores.softmax(3) @ v).transpose(1, 2), scores.logsumexp(3).transpose(1, 2))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ["sdpa", "flash", "math"])
def test_parts_merge_to_the_whole(name: str, padded: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, rows, 3, 20, generator=generator) for rows in (5, 12, 12))
    valid = torch.arange(12) < torch.tensor([[12], [9]]) if padded else None
    attend = get_backend(name).with_lse
    done = None
    for span in (slice(0, 7), slice(7, 8), slice(8, 12)):
        seen = None if valid is None else valid[:, span]
        part = attend(q, k[:, span], v[:, span], seen)
        wanted = exact(q, k[:, span], v[:, span], seen)
        torch.testing.assert_close(part.lse.double(), wanted.lse, atol=1e-5, rtol=0)
        done = part if done is None else merge(done, part)
    wanted = exact(q, k, v, valid)
    torch.testing.assert_close(done.out.double(), wanted.out, atol=2e-6, rtol=0)
    torch.testing.assert_close(done.lse.double(), wanted.lse, atol=1e-5, rtol=0)


def test_parts_of_nothing_but_padding_merge() -> None:
    q, k, v = (torch.ones(1, 2, 1, 4) for _ in range(3))
    nothing = get_backend("sdpa").with_lse(q, k, v, torch.tensor([[False, False]]))
    everything = get_backend("sdpa").with_lse(q, k, v, None)
    done = merge(merge(nothing, nothing), everything)
    torch.testing.assert_close(done.out, everything.out)
    torch.testing.assert_close(done.lse, everything.lse)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["sdpa", "flash", "cudnn", "efficient"])
@pytest.mark.parametrize("padded", [False, True])
def test_a_gpu_s_parts(name: str, padded: bool) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v = (
        torch.randn(2, rows, 3, 64, generator=generator, device="cuda", dtype=torch.bfloat16)
        for rows in (70, 130, 130)
    )
    lengths = torch.tensor([[130], [99]], device="cuda")
    valid = torch.arange(130, device="cuda") < lengths if padded else None
    if padded and name in ("flash", "cudnn"):
        with pytest.raises(ValueError, match="choose efficient or math"):
            get_backend(name).with_lse(q, k, v, valid)
        return
    part, wanted = get_backend(name).with_lse(q, k, v, valid), exact(q, k, v, valid)
    torch.testing.assert_close(part.out.double(), wanted.out, atol=2e-2, rtol=0)
    torch.testing.assert_close(part.lse.double(), wanted.lse, atol=2e-2, rtol=0)
