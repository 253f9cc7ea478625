"""Surroundings of a measured exchange: nothing, or the rest of an attention layer.

They are alike for every contender, so that all send the same tensors. Knows no contender, no clock.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from disca_rt.attention.backends import get_backend
from disca_rt.kernels import reference
from disca_rt.kernels.packing import Packing, packing

from .ulysses import Attend, Tokens, Traded


class Task(NamedTuple):
    """Surroundings of one exchange, which takes `tokens`, or `packed` ones, and does `attend`.

    `finish` takes its result. A run with `check` in place of `attend` must give `expected` or,
    where that is None, what the first contender gives.
    """

    tokens: Tokens
    packed: Tokens
    attend: Attend
    check: Attend
    expected: Tensor | None = None
    finish: Callable[[Tensor], Tensor] = lambda out: out


def exchange_alone(traded: Traded) -> Task:
    """Exchange alone: what comes as v goes back at once."""
    v, k, q = (torch.randn(traded.like.shape).to(traded.like.dtype) for _ in range(3))
    packed_k, packed_q = (_packed(each, _packing(traded)) for each in (k, q))
    return Task(
        Tokens(lambda: v, lambda: k, lambda: q),
        Tokens(lambda: v, lambda: packed_k, lambda: packed_q),
        attend=lambda q, k, v: v,
        check=_mixed,
        expected=_mixed(q, k, v),
    )


def attention_layer(traded: Traded) -> Task:
    """Three projections, norm and RoPE of k and q, attention, and the projection of its output."""
    batch, shard, heads, head_dim = traded.like.shape
    hidden = heads * head_dim
    x = torch.randn(batch, shard, hidden)
    weights = {name: torch.randn(hidden, hidden) * hidden**-0.5 for name in ("v", "k", "q", "o")}
    norms = torch.ones(head_dim), torch.ones(head_dim)
    img_tokens = len(traded.partition.shard(traded.group.rank()).img)
    angles = torch.rand(img_tokens, head_dim // 2)
    tables = *norms, angles.cos(), angles.sin()
    packing, backend = _packing(traded), get_backend("sdpa")

    def project(name: str) -> Tensor:
        return F.linear(x, weights[name]).unflatten(2, (heads, head_dim))

    def rotated(name: str) -> Tensor:
        return reference.rms_norm_rope(project(name), *tables)

    def rotated_packed(name: str) -> Tensor:
        return reference.rms_norm_rope_send(project(name), *tables, packing)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return backend(q, k, v, None)

    v = partial(project, "v")
    return Task(
        Tokens(v, partial(rotated, "k"), partial(rotated, "q")),
        Tokens(v, partial(rotated_packed, "k"), partial(rotated_packed, "q")),
        attend=attend,
        check=attend,
        finish=lambda out: F.linear(out.flatten(2), weights["o"]),
    )


def _mixed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Function of all three that depends on no order of heads or tokens."""
    return v + k * q


def _packing(traded: Traded) -> Packing:
    counts = [len(traded.partition.heads(rank)) for rank in range(traded.partition.ranks)]
    return packing(counts, traded.like.device)


def _packed(tokens: Tensor, packing: Packing) -> Tensor:
    parts = tokens.split(packing.counts, dim=2)
    return torch.cat([part.flatten(1, 2) for part in parts], dim=1)
