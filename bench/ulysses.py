"""Exchanges of tokens for heads of v, k and q, and back of the result: ours and others'.

Each takes its tokens, asking for them when it can send them, and what is to be done to the heads
(attention, or nothing), and returns this rank's tokens of that. The others are what PyTorch and
diffusers offer, called as they are, and `all_to_all_single` with the permutes around it that
DeepSpeed-Ulysses has (arXiv 2309.14509), in the order in which one sample needs the fewest copies.
Knows no clock and no model.
"""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from disca_rt.measure.diffusers_models import Unavailable
from disca_rt.parallel._native import Partition, Scheduler, Slot

TIMEOUT = timedelta(seconds=60)


class Tokens(NamedTuple):
    """Makers of this rank's v, k and q of all heads, `[B, S_shard, H, D]`."""

    v: Callable[[], Tensor]
    k: Callable[[], Tensor]
    q: Callable[[], Tensor]


Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention: q, k and v of all tokens and this rank's heads, `[B, S, H_rank, D]`, to as many."""

Ulysses = Callable[[Tokens, Attend], Tensor]


class Traded(NamedTuple):
    """Tensors such as `like [B, S_shard, H, D]`, their partition, and the mesh of their ranks."""

    partition: Partition
    like: Tensor
    mesh: DeviceMesh

    @property
    def group(self) -> ProcessGroup:
        return self.mesh.get_group("ulysses")

    @property
    def is_even(self) -> bool:
        partition = self.partition
        counts = [
            (partition.shard(rank).tokens, len(partition.heads(rank)))
            for rank in range(partition.ranks)
        ]
        return len(set(counts)) == 1


def scheduled(traded: Traded, send: Callable[[Scheduler, Slot, Tensor], None]) -> Ulysses:
    """Exchange by our scheduler, which is given k and q by its method `send`."""
    batch, _, _, head_dim = traded.like.shape
    scheduler = Scheduler(
        partition=traded.partition,
        rank=traded.group.rank(),
        group=traded.group,
        batch=batch,
        head_dim=head_dim,
        dtype=traded.like.dtype,
        device=traded.like.device,
        timeout=TIMEOUT,
    )

    def run(tokens: Tokens, attend: Attend) -> Tensor:
        scheduler.send(Slot.V, tokens.v())
        send(scheduler, Slot.K, tokens.k())
        send(scheduler, Slot.Q, tokens.q())
        q, k, v = (scheduler.receive(slot, 0) for slot in (Slot.Q, Slot.K, Slot.V))
        scheduler.send_back(Slot.O, 0, attend(q, k, v))
        return scheduler.receive_back(Slot.O)

    return run


def all_to_all(traded: Traded) -> Ulysses:
    """Exchange of `[rank, S_shard, B, H_rank, D]`, one tensor after another, between permutes."""
    ranks, group = traded.partition.ranks, traded.group

    def exchange(packed: Tensor) -> Tensor:
        received = torch.empty_like(packed)
        dist.all_to_all_single(received, packed, group=group)
        return received

    def run(tokens: Tokens, attend: Attend) -> Tensor:
        v, k, q = (_join_tokens(exchange(_split_heads(make(), ranks))) for make in tokens)
        return _join_heads(exchange(_split_tokens(attend(q, k, v), ranks)))

    return run


def functional_all_to_all(traded: Traded) -> Ulysses:
    """Exchange as by `all_to_all` with v, k and q under way together."""
    ranks, group = traded.partition.ranks, traded.group

    def start(packed: Tensor) -> Tensor:
        return functional.all_to_all_single_autograd(packed, None, None, group)

    def run(tokens: Tokens, attend: Attend) -> Tensor:
        started = [start(_split_heads(make(), ranks)) for make in tokens]
        v, k, q = (_join_tokens(functional.wait_tensor(each)) for each in started)
        started_back = start(_split_tokens(attend(q, k, v), ranks))
        return _join_heads(functional.wait_tensor(started_back))

    return run


def _split_heads(tokens: Tensor, ranks: int) -> Tensor:
    return tokens.unflatten(2, (ranks, -1)).permute(2, 1, 0, 3, 4).contiguous()


def _join_tokens(received: Tensor) -> Tensor:
    return received.flatten(0, 1).transpose(0, 1).contiguous()


def _split_tokens(heads: Tensor, ranks: int) -> Tensor:
    return heads.unflatten(1, (ranks, -1)).permute(1, 2, 0, 3, 4).contiguous()


def _join_heads(received: Tensor) -> Tensor:
    return received.permute(2, 1, 0, 3, 4).flatten(2, 3)


def all_to_all_with_sizes(traded: Traded) -> Ulysses:
    """Exchange as by `all_to_all` of one sample whose ranks may have unequal shares."""
    partition, group = traded.partition, traded.group
    _, shard, _, width = traded.like.shape
    own = len(partition.heads(group.rank()))
    counts = [len(partition.heads(rank)) for rank in range(partition.ranks)]
    of_heads = [shard * count * width for count in counts]
    of_tokens = [partition.shard(rank).tokens * own * width for rank in range(partition.ranks)]

    def exchange(packed: Tensor, received: list[int], sent: list[int]) -> Tensor:
        out = packed.new_empty(sum(received))
        dist.all_to_all_single(out, packed, received, sent, group=group)
        return out

    def to_heads(tokens: Tensor) -> Tensor:
        packed = tokens.new_empty(tokens.numel())
        parts = zip(packed.split(of_heads), tokens.split(counts, dim=2), strict=True)
        for place, part in parts:
            place.view(part.shape).copy_(part)
        return exchange(packed, of_tokens, of_heads).view(1, -1, own, width)

    def run(tokens: Tokens, attend: Attend) -> Tensor:
        v, k, q = (to_heads(make()) for make in tokens)
        received = exchange(attend(q, k, v).flatten(), of_heads, of_tokens).split(of_heads)
        return torch.cat([each.view(1, shard, -1, width) for each in received], dim=2)

    return run


def redistribute(traded: Traded) -> Ulysses:
    """Exchange by DTensors, which know how they are shared out."""
    mesh = traded.mesh["ulysses"]

    def move(local: Tensor, here: int, there: int) -> Tensor:
        whole = DTensor.from_local(local, mesh, [Shard(here)], run_check=False)
        return whole.redistribute(placements=[Shard(there)]).to_local()

    return _one_by_one(move)


def shard_dim_all_to_all(traded: Traded) -> Ulysses:
    name = traded.group.group_name
    return _one_by_one(
        lambda local, here, there: torch.ops._dtensor.shard_dim_alltoall(local, here, there, name)
    )


def _one_by_one(move: Callable[[Tensor, int, int], Tensor]) -> Ulysses:
    """Exchange by `move(local, dimension gathered, dimension shared out)`; 1 is tokens, 2 heads."""

    def run(tokens: Tokens, attend: Attend) -> Tensor:
        v, k, q = (move(make(), 1, 2) for make in tokens)
        return move(attend(q, k, v), 2, 1)

    return run


def diffusers_ulysses(traded: Traded, is_anything: bool = False) -> Ulysses:
    try:
        from diffusers import ContextParallelConfig
        from diffusers.models._modeling_parallel import ParallelConfig
        from diffusers.models.attention_dispatch import _templated_context_parallel_attention
    except ImportError as error:
        raise Unavailable("needs diffusers: pip install 'disca_rt[bench]'") from error
    ranks, rank = traded.partition.ranks, traded.group.rank()
    shared = ContextParallelConfig(ulysses_degree=ranks, ulysses_anything=is_anything)
    config = ParallelConfig(context_parallel_config=shared)
    config.setup(rank, ranks, torch.device("cpu"), mesh=traded.mesh)

    def run(tokens: Tokens, attend: Attend) -> Tensor:
        v, k, q = (make() for make in tokens)
        return _templated_context_parallel_attention(
            q,
            k,
            v,
            forward_op=lambda ctx, q, k, v, *_, **__: attend(q, k, v),
            backward_op=None,
            _parallel_config=config,
        )

    return run


class Way(NamedTuple):
    """Contender of the benchmark; one that `is_packed` is given k and q in the sending layout."""

    name: str
    build: Callable[[Traded], Ulysses]
    note: str = ""
    is_packed: bool = False


OURS = (
    Way("ours", partial(scheduled, send=Scheduler.send)),
    Way(
        "ours, k and q packed",
        partial(scheduled, send=Scheduler.send_packed),
        "by the kernel of norm and RoPE, which writes them anyway",
        is_packed=True,
    ),
)
EVEN = (
    Way("all_to_all_single, permutes", all_to_all, "one tensor after another"),
    Way("torch functional collectives", functional_all_to_all, "v, k and q under way together"),
    Way(
        "torch shard_dim_alltoall",
        shard_dim_all_to_all,
        "the op that DTensor.redistribute calls on a GPU",
    ),
    Way(
        "torch DTensor.redistribute",
        redistribute,
        "over gloo it gathers all heads and drops the others",
    ),
    Way("diffusers Ulysses", diffusers_ulysses),
    *OURS,
)
UNEVEN = (
    Way("all_to_all_single, split sizes", all_to_all_with_sizes, "one tensor after another"),
    Way(
        "diffusers Ulysses Anything",
        partial(diffusers_ulysses, is_anything=True),
        "pads heads, and gathers the numbers of tokens in each exchange",
    ),
    *OURS,
)
LEFT_OUT = (
    "without those that cannot do uneven shares: permutes, torch functional collectives with them, "
    "torch shard_dim_alltoall, torch DTensor.redistribute (it shares out otherwise), diffusers "
    "Ulysses"
)


def ways(traded: Traded) -> tuple[Way, ...]:
    """Contenders that can exchange these shares, the baseline first."""
    return EVEN if traded.is_even else UNEVEN
