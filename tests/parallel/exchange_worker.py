"""One rank of test_exchange.py: random exchanges over gloo, each compared bit by bit.

Run as `torchrun ... exchange_worker.py`; ends with an error where anything differs.
"""

import random
from datetime import timedelta
from itertools import groupby
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from disca_rt.parallel._native import Partition, Scheduler, Slot
from parallel.places import joint_rows

CASES = 12
LAYERS = 3


def main() -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    groups = [dist.group.WORLD, dist.new_group()]  # two in one process
    for case in range(CASES):
        draw = random.Random(case)  # the same on every rank
        exchange(draw, groups[case % 2])
    dist.destroy_process_group()


def exchange(draw: random.Random, group: dist.ProcessGroup) -> None:
    """Several layers there and back through the same buffers, filled with NaN after each."""
    ranks, rank = group.size(), group.rank()
    img, txt = draw.randint(1, 50) + ranks, draw.randint(0, 9)
    heads, batch, width = draw.randint(ranks, 9), draw.choice((1, 1, 3)), draw.randint(1, 16)
    dtype = draw.choice((torch.float32, torch.bfloat16))
    partition = Partition(
        img_tokens=img, txt_tokens=txt, heads=heads, ranks=ranks, head_chunks=draw.randint(1, 3)
    )
    scheduler = Scheduler(
        partition=partition,
        rank=rank,
        group=group,
        batch=batch,
        head_dim=width,
        dtype=dtype,
        device=torch.device("cpu"),
        timeout=timedelta(seconds=60),
    )
    mine = joint_rows(partition.shard(rank))
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    for _ in range(LAYERS):
        shape = (batch, img + txt, heads, width)
        whole = {slot: torch.randn(shape, generator=generator).to(dtype) for slot in SLOTS}
        given = {slot: strided(tokens[:, mine]) for slot, tokens in whole.items()}
        with Copies() as out:
            for slot, tokens in given.items():
                scheduler.send(slot, tokens)
        for chunk in range(partition.chunks):
            span = partition.heads(rank, chunk)
            for slot, tokens in whole.items():
                ours = scheduler.receive(slot, chunk)
                assert torch.equal(ours, tokens[:, :, span.start : span.stop])
                ours.fill_(float("nan"))  # what the next layer must not see
            scheduler.send_back(Slot.O, chunk, whole[Slot.Q][:, :, span.start : span.stop])
        with Copies() as back:
            assert torch.equal(scheduler.receive_back(Slot.O), whole[Slot.Q][:, mine])
        widths = groupby(len(partition.heads(member)) for member in range(ranks))
        copies = len(list(widths)) * partition.chunks
        assert (out.count, back.count) == (3 * copies, copies)


class Copies(TorchDispatchMode):
    """Counter of copies: one for all neighbours with equally many heads."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten.copy_.default
        return func(*args, **(kwargs or {}))


SLOTS = Slot.V, Slot.K, Slot.Q


def strided(tokens: torch.Tensor) -> torch.Tensor:
    """A view into a wider tensor, as rows of a packed product are."""
    wide = torch.zeros(*tokens.shape[:2], 2 * tokens.shape[2], tokens.shape[3], dtype=tokens.dtype)
    wide[:, :, : tokens.shape[2]] = tokens
    return wide[:, :, : tokens.shape[2]]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
