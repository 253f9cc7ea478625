"""What is around an exchange while it is measured: nothing, or the rest of an attention layer.

Made alike for every contender, so that all send the same tensors. Knows no contender and no clock.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from disca_rt.attention.local import get_backend
from disca_rt.kernels import reference
from disca_rt.kernels.packing import Packing, packing

from .ulysses import Attend, Tokens, Traded


class Task(NamedTuple):
    """What is around an exchange: `tokens`, with k and q as they are or packed, go into it.

    `finish` takes what comes out of it, and that must be `expected` once done with `check` in place
    of `attend`; None: as the first contender's.
    """

    tokens: Tokens
    packed: Tokens
    attend: Attend
    check: Attend
    expected: Tensor | None = None
    finish: Callable[[Tensor], Tensor] = lambda out: out


def exchange_alone(traded: Traded) -> Task:
    """Nothing but the exchange: what comes as v goes back at once."""
    v, k, q = (torch.randn(traded.like.shape).to(traded.like.dtype) for _ in range(3))
    packing = _packing(traded)
    return Task(
        Tokens(*(partial(_given, each) for each in (v, k, q))),
        Tokens(*(partial(_given, each) for each in (v, _packed(k, packing), _packed(q, packing)))),
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


def _given(tokens: Tensor) -> Tensor:
    return tokens


def _mixed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Depends on all three, and on no order of heads or tokens."""
    return v + k * q


def _packing(traded: Traded) -> Packing:
    counts = [len(traded.partition.heads(rank)) for rank in range(traded.partition.ranks)]
    return packing(counts, traded.like.device)


def _packed(tokens: Tensor, packing: Packing) -> Tensor:
    parts = tokens.split(packing.counts, dim=2)
    return torch.cat([part.flatten(1, 2) for part in parts], dim=1)
