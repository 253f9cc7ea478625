"""What a command says when memory runs out: what was needed, and what would fit.

Knows the formula (`footprint`), the device, and how a size is written on the command line.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from ..cache.policy import Policy
from ..conditioning import Conditioning
from ..models.linear import fp8_linears
from ..pipeline.runtime import Runtime
from ..units import byte_text
from ..vae.sizes import SIZES
from ..work.memory import Need, fewest_ranks, fits, footprint, largest_size
from .sampling import SampleRequest

MEMORY_INFO = Path("/proc/meminfo")
SIGNS = "out of memory", "can't allocate memory", "Storage size calculation overflowed"

ShowSize = Callable[[tuple[int, int, int]], str]
"""Latents (T, H, W) as --size takes them."""


@contextmanager
def explained(
    need: Callable[[], Need], device: torch.device, show_size: ShowSize
) -> Iterator[None]:
    """Within, running out of memory is a MemoryError in one line."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        is_gpu = device.type == "cuda"
        told = explanation(need(), capacity(device), show_size, is_gpu)
        raise MemoryError(told) from error


def is_out_of_memory(error: BaseException) -> bool:
    """PyTorch has an error of its own on a GPU only."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in SIGNS)


def explanation(need: Need, there: int, show_size: ShowSize, is_gpu: bool = True) -> str:
    """For a sample that did not fit into `there` bytes on each of its devices.

    Ranks on a CPU share its memory, so that more of them would not help.
    """
    needed = footprint(need).total
    # Where it would have fitted by the formula, something else is there, or memory is in pieces.
    room = there if needed > there else int(needed * 0.9)
    ways = []
    size = largest_size(need, room)
    if size is not None and size != need.size:
        ways.append(f"size {show_size(size)}")
    if need.graphs and fits(need._replace(graphs=False), room):
        ways.append("--no-graphs")
    if need.itemsize > 2 and fits(need._replace(itemsize=2), room):
        ways.append("--dtype bfloat16")
    if not need.fp8_weights and fits(need._replace(fp8_weights=True), room):
        ways.append("--fp8-weights")
    ranks = fewest_ranks(need, room) if is_gpu else None
    if ranks is not None:
        ways.append(f"{ranks} ranks (torchrun)")
    way_out = f"would fit: {', or '.join(ways)}" if ways else "no size of it would fit"
    return f"needs about {footprint(need)} of {byte_text(there)}; {way_out}"


def runtime_need(
    runtime: Runtime,
    policy: Policy,
    ops: str,
    conditioning: Conditioning,
    latents: Sequence[int],
    passes: int = 1,
) -> Need:
    """Of a sample of `runtime` from `latents` (C, T, H, W), with `ops` by their name."""
    return Need(
        dit=runtime.config,
        predictor=None if runtime.predictor is None else runtime.predictor.config,
        size=tuple(latents[1:]),
        text=conditioning.tokens,
        itemsize=runtime.dit.dtype.itemsize,
        policy=policy,
        ops=ops,
        ranks=runtime.dit.attention.sharding.size,
        batch=conditioning.batch,
        graphs=runtime.graphs is not None,
        passes=passes,
        fp8_weights=bool(fp8_linears(runtime.dit)),
    )


@contextmanager
def explained_sample(
    runtime: Runtime, ops: str, request: SampleRequest, is_told: bool
) -> Iterator[None]:
    """Says what the sample will take, and within what would fit; `ops` by their name."""
    inputs = request.inputs
    latent_shape = inputs["latent_shape"] or inputs["latents"].shape[1:]
    passes = 1 if inputs["negative"] is None else 2
    conditioning, policy = inputs["conditioning"], request.policy
    need = runtime_need(runtime, policy, ops, conditioning, latent_shape, passes)
    if is_told:
        print(f"memory: about {footprint(need)}", flush=True)
    with explained(lambda: need, runtime.dit.device, lambda size: show_size(runtime, size)):
        yield


def show_size(runtime: Runtime, grid: tuple[int, int, int]) -> str:
    """Latents of (T, H, W) as --size takes them."""
    codec = runtime.codec or SIZES[runtime.config.family]
    frames, height, width = codec.video_size(*grid)
    return f"{width}x{height}x{frames}"


def refuse_hopeless(need: Need, device: torch.device, show_size: ShowSize) -> None:
    """MemoryError where not even the weights fit, or on a CPU the whole sample.

    There an allocation succeeds all the same, and the process is killed without a word later.
    """
    estimate, there = footprint(need), capacity(device)
    is_gpu = device.type == "cuda"
    if (estimate.weights if is_gpu else estimate.total) > there:
        raise MemoryError(explanation(need, there, show_size, is_gpu))


def capacity(device: torch.device) -> int:
    """Bytes that this process could have: a GPU's free ones and its own, or the available RAM."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    if MEMORY_INFO.is_file():
        lines = (line.split() for line in MEMORY_INFO.read_text().splitlines())
        return next(1024 * int(line[1]) for line in lines if line[0] == "MemAvailable:")
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
