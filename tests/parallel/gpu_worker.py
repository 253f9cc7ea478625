"""One rank of test_gpu.py, on a GPU of its own over NCCL: exchanges bit by bit, and their overlap.

Run as `torchrun ... gpu_worker.py`; ends with an error where anything differs.
"""

import os
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from disca_rt.attention.local import LocalAttention
from disca_rt.kernels.ops import get_ops
from disca_rt.parallel._native import Partition, Scheduler, Slot
from disca_rt.parallel.attention import UlyssesAttention
from disca_rt.parallel.topology import Topology
from disca_rt.tokens import TokenLayout
from parallel.places import joint_rows, places

IMG, TXT, HEADS, WIDTH = 4096, 64, 24, 128
LAYERS = 3
SLOTS = Slot.V, Slot.K, Slot.Q


def main() -> None:
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", device_id=device)
    bitwise(device)
    close_to_local(device)
    immediate(device)
    overlapped(device)
    dist.destroy_process_group()


def partition_of_world() -> Partition:
    return Partition(img_tokens=IMG, txt_tokens=TXT, heads=HEADS, ranks=dist.get_world_size())


def scheduler_of(partition: Partition, batch: int, device: torch.device) -> Scheduler:
    return Scheduler(
        partition=partition,
        rank=dist.get_rank(),
        group=dist.group.WORLD,
        batch=batch,
        head_dim=WIDTH,
        dtype=torch.bfloat16,
        device=device,
        timeout=timedelta(seconds=60),
    )


def bitwise(device: torch.device) -> None:
    """Several layers, no synchronisation between them; every tensor is another one."""
    rank, partition = dist.get_rank(), partition_of_world()
    scheduler = scheduler_of(partition, 2, device)
    mine, span = joint_rows(partition.shard(rank)), partition.heads(rank)
    generator = torch.Generator(device).manual_seed(0)
    differences = []
    for _ in range(LAYERS):
        shape = 2, IMG + TXT, HEADS, WIDTH
        whole = [torch.randn(shape, device=device, generator=generator).bfloat16() for _ in SLOTS]
        for slot, tokens in zip(SLOTS, whole, strict=True):
            scheduler.send(slot, tokens[:, mine])
        for slot, tokens in zip(SLOTS, whole, strict=True):
            expected = tokens[:, :, span.start : span.stop]
            differences.append((scheduler.receive(slot, 0) != expected).sum())
        scheduler.send_back(Slot.O, 0, whole[2][:, :, span.start : span.stop])
        differences.append((scheduler.receive_back(Slot.O) != whole[2][:, mine]).sum())
    assert torch.stack(differences).sum() == 0


def immediate(device: torch.device) -> None:
    """`receive` gives its tensor before anything has arrived: the host waits for nothing."""
    partition = partition_of_world()
    scheduler = scheduler_of(partition, 1, device)
    shape = 1, partition.shard(dist.get_rank()).tokens, HEADS, WIDTH
    tokens = torch.ones(shape, device=device, dtype=torch.bfloat16)
    for is_measured in (False, True):  # the first one makes buffers
        torch.cuda.synchronize()
        dist.barrier(device_ids=[device.index])
        torch.cuda.synchronize()
        start = time.perf_counter()
        if is_measured:
            torch.cuda._sleep(4 * 10**9)  # cycles: about two seconds before V can leave
        scheduler.send(Slot.V, tokens)
        heads = scheduler.receive(Slot.V, 0)
        scheduler.send_back(Slot.O, 0, heads)
        scheduler.receive_back(Slot.O)
        taken, is_over = time.perf_counter() - start, torch.cuda.current_stream().query()
    assert not is_over
    torch.cuda.synchronize()
    assert taken < (time.perf_counter() - start) / 4
    assert torch.all(heads == 1)


class _Products:
    """Work of a block: matrix products, in two pieces."""

    def __init__(self, matrix: Tensor) -> None:
        self._matrix = matrix

    def advance(self) -> None:
        for _ in range(8):
            self._matrix @ self._matrix


def attended(attention: UlyssesAttention, parts: list[Tensor], layout: TokenLayout) -> Tensor:
    """One attention as a single-stream block does it, fused norm and RoPE in the send layout."""
    v, k, q = parts
    ops = get_ops("triton", v.device)
    one = torch.ones(WIDTH, device=v.device, dtype=v.dtype)
    angles = torch.zeros(layout.img_len, WIDTH // 2, device=v.device)
    tables = one, one, angles.cos(), angles.sin()
    handle = attention.begin(layout)
    handle.put_v(v)
    for put, tokens in ((handle.put_k, k), (handle.put_q, q)):
        put(ops.rms_norm_rope_send(tokens, *tables, handle.packing))
    return handle.result(_Products(torch.randn(4096, 4096, device=v.device, dtype=v.dtype)))


def sharded(device: torch.device) -> tuple[UlyssesAttention, list[Tensor], TokenLayout, Tensor]:
    topology = Topology(dist.group.WORLD, timedelta(seconds=60))
    attention = UlyssesAttention(topology, LocalAttention())
    attention.prepare(HEADS)
    mine = places(attention, IMG, TXT).to(device)
    generator = torch.Generator(device).manual_seed(0)
    shape = 1, IMG + TXT, HEADS, WIDTH
    whole = [torch.randn(shape, device=device, generator=generator).bfloat16() for _ in SLOTS]
    layout = TokenLayout(int((mine < IMG).sum()), None, (IMG, TXT))
    return attention, [each[:, mine] for each in whole], layout, mine


@torch.no_grad()
def close_to_local(device: torch.device) -> None:
    attention, parts, layout, mine = sharded(device)
    out = attended(attention, parts, layout)
    generator = torch.Generator(device).manual_seed(0)
    shape = 1, IMG + TXT, HEADS, WIDTH
    v, k, q = (torch.randn(shape, device=device, generator=generator).bfloat16() for _ in SLOTS)
    k, q = (torch.nn.functional.rms_norm(each.float(), (WIDTH,), eps=1e-6) for each in (k, q))
    heads = (each.double().transpose(1, 2) for each in (q, k, v))
    exact = torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    assert (out - exact[:, mine]).abs().max() < 2e-2


@torch.no_grad()
def overlapped(device: torch.device) -> None:
    """Some transfer runs while a matrix product does."""
    attention, parts, layout, _ = sharded(device)
    attended(attention, parts, layout)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(LAYERS):
            attended(attention, parts, layout)
        torch.cuda.synchronize()
    kernels = [each for each in profiled.events() if each.device_type.name == "CUDA"]
    transfers = [each for each in kernels if "nccl" in each.name.lower()]
    if dist.get_world_size() == 1:  # NCCL copies to itself, with or without a kernel
        return
    assert transfers
    others = [each for each in kernels if each not in transfers]
    hidden = sum(
        max(
            0.0,
            min(a.time_range.end, b.time_range.end) - max(a.time_range.start, b.time_range.start),
        )
        for a in transfers
        for b in others
    )
    assert hidden > 0, f"{len(transfers)} transfers, none under any of {len(others)} kernels"


if __name__ == "__main__":
    main()
