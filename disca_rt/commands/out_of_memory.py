"""The line for memory that runs out or is not there: what is needed, and what would fit.

Knows the formula (`footprint`), the device, and how a size is written on the command line.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from ..config import DiTConfig, PredictorConfig
from ..errors import first_line
from ..instruments.capacity import capacity
from ..models.fp8_table import Fp8
from ..pipeline.fit import latent_shape
from ..pipeline.request import Request
from ..pipeline.runtime import Runtime
from ..units import byte_text
from ..weights.checkpoint import open_checkpoint
from ..weights.hub import resolve
from ..weights.identify import identify
from ..weights.load import own_dtype
from ..work.memory import Need, fewest_ranks, fits, footprint, largest_size, smaller_caches

HOST = torch.device("cpu")
SIGNS = "out of memory", "can't allocate memory", "Storage size calculation overflowed"

ShowSize = Callable[[tuple[int, int, int]], str]
"""Writes latents (T, H, W) as --size takes them."""


@contextmanager
def explained(
    need: Callable[[], Need], device: torch.device, show_size: ShowSize, held: int = 0
) -> Iterator[None]:
    """Turn running out of memory within into a MemoryError in one line; `held`: see `_room`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        told = explanation(need(), _room(device, held), show_size, device.type == "cuda")
        raise MemoryError(told) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out: PyTorch has an error of its own for it on a GPU only."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in SIGNS)


def explanation(need: Need, there: int, show_size: ShowSize, is_gpu: bool = True) -> str:
    """Say what fits where `need` does not, in `there` bytes on each of its devices.

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
    if not need.fp8 and fits(need._replace(fp8="weights"), room):
        ways.append("--fp8-weights")
    ways += smaller_caches(need, room, capacity(HOST) if is_gpu else None)
    ranks = fewest_ranks(need, room) if is_gpu else None
    if ranks is not None:
        ways.append(f"{ranks} ranks (torchrun)")
    way_out = f"would fit: {', or '.join(ways)}" if ways else "no size of it would fit"
    return f"needs about {footprint(need)} of {byte_text(there)}; {way_out}"


def runtime_need(runtime: Runtime, ops: str, request: Request, ranks: int = 1) -> Need:
    """Need of a sample of `runtime` that `ranks` share; `ops` by their name.

    The prompts of `request` are encoded.
    """
    conditioning, predictor = request.conditioning, runtime.parts.predictor
    return Need(
        dit=runtime.config,
        predictor=None if predictor is None else predictor.config,
        size=latent_shape(request)[1:],
        text=conditioning.tokens,
        itemsize=runtime.facts.place.dtype.itemsize,
        policy=runtime.resolved(request)[1],
        ops=ops,
        ranks=ranks,
        batch=1 if runtime.decides_per_sample(request) else conditioning.batch,
        graphs=runtime.graphs is not None,
        passes=len(request.conditionings),
        fp8=runtime.facts.fp8,
    )


@contextmanager
def explained_sample(
    runtime: Runtime, ops: str, request: Request, is_told: bool, ranks: int = 1
) -> Iterator[None]:
    """Say what the sample takes, refuse what cannot fit and, within, explain what did not.

    Arguments are those of `runtime_need`; the first rank `is_told`.
    """
    need, device = runtime_need(runtime, ops, request, ranks), runtime.facts.place.device
    show, held = partial(show_size, runtime), footprint(need).weights if runtime.is_loaded else 0
    if is_told:
        print(f"memory: about {footprint(need)}", flush=True)
    refuse_hopeless(need, device, show, held)
    with explained(lambda: need, device, show, held):
        yield


@contextmanager
def explained_encoding(args: argparse.Namespace) -> Iterator[None]:
    """Turn running out of memory within, while prompts are encoded, into one line."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        ways = ["--encoder-device cpu"] if args.device != "cpu" else []
        ways += ["--encoder-dtype bfloat16"] if args.encoder_dtype is None else []
        way_out = ", or ".join(ways) or "free some memory"
        told = f"stage encode: {first_line(error)}; would help: {way_out}"
        raise MemoryError(told) from error


def refuse_weights(
    dit: str,
    predictor: str | None,
    device: torch.device,
    dtype: torch.dtype | None,
    fp8: Fp8,
) -> None:
    """Raise MemoryError where the models of these files cannot fit, by their headers alone."""
    model = identify(open_checkpoint(resolve(dit)))
    if not isinstance(model.config, DiTConfig):
        return  # which loading says best
    given = None if predictor is None else identify(open_checkpoint(resolve(predictor))).config
    need = Need(
        dit=model.config,
        predictor=given if isinstance(given, PredictorConfig) else None,
        size=model.config.patch,
        text=1,
        itemsize=(dtype or own_dtype(model.checkpoint)).itemsize,
        policy="full",
        fp8=fp8,
    )
    refuse_hopeless(need, device, str)


def show_size(runtime: Runtime, grid: tuple[int, int, int]) -> str:
    """Write latents of (T, H, W) as --size takes them."""
    frames, height, width = runtime.size_of(grid)
    return f"{width}x{height}x{frames}"


def refuse_hopeless(need: Need, device: torch.device, show_size: ShowSize, held: int = 0) -> None:
    """Raise MemoryError where not even weights and cache fit, or on a CPU the whole sample.

    There an allocation succeeds all the same, and the process is killed without a word later.
    """
    estimate, there = footprint(need), _room(device, held)
    is_gpu = device.type == "cuda"
    # On a GPU activations are an estimate; weights and cache are what they are.
    certain = estimate.weights + estimate.cache if is_gpu else estimate.total + estimate.host
    if certain > there:
        raise MemoryError(explanation(need, there, show_size, is_gpu))
    if is_gpu:
        _refuse_host(need, there)


def _refuse_host(need: Need, there: int) -> None:
    """Raise MemoryError where the host cannot keep the cache of the ranks that run on it."""
    here = min(need.ranks, int(os.environ.get("LOCAL_WORLD_SIZE", need.ranks)))
    needed, host = here * footprint(need).host, capacity(HOST)
    if needed > host:
        ways = smaller_caches(need, there, host // here) or ["a smaller size"]
        raise MemoryError(
            f"the host needs about {byte_text(needed)} of {byte_text(host)} for the cache of its "
            f"{here} ranks; would fit: {', or '.join(ways)}"
        )


def _room(device: torch.device, held: int) -> int:
    """Bytes that a sample may take in all, `held` of which its loaded weights take."""
    return capacity(device) + (0 if device.type == "cuda" else held)
