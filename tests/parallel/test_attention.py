"""Attention over shared tokens is local attention: forward, gradients, ring, padding, chunks."""

from pathlib import Path

import pytest
import torch

from disca_rt.parallel.partial import PARTIAL_BACKENDS, Partial, get_partial_backend, merge
from parallel.launch import passes

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3, 4, 6])
def test_it_is_local_attention(ranks: int) -> None:
    passes(ranks, HERE / "attention_worker.py")


def exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, valid: torch.Tensor | None) -> Partial:
    """In fp64."""
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
    attend = get_partial_backend(name)
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
    nothing = get_partial_backend("sdpa")(q, k, v, torch.tensor([[False, False]]))
    everything = get_partial_backend("sdpa")(q, k, v, None)
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
            get_partial_backend(name)(q, k, v, valid)
        return
    part, wanted = get_partial_backend(name)(q, k, v, valid), exact(q, k, v, valid)
    torch.testing.assert_close(part.out.double(), wanted.out, atol=2e-2, rtol=0)
    torch.testing.assert_close(part.lse.double(), wanted.lse, atol=2e-2, rtol=0)


def test_a_backend_without_sums_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a ring of ranks needs .*'efficient'.* got 'fa9'"):
        get_partial_backend("fa9")
    assert {"sdpa", "math"} <= PARTIAL_BACKENDS.keys()
