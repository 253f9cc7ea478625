"""The search for the rank that failed first, which every other rank names in its own error.

The first failure known is recorded in the ranks' store. Where none is recorded, the ranks' beats
show who is silent or behind. Knows a store, no processes and no tensors.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch.distributed as dist
from torch.distributed import Store

from ..errors import first_line
from .beats import MISSED, PERIOD, behind, heard, silent

RECORD = "failure"  # key in the store
SIGNS = (
    "tokens for heads",
    "heads for tokens",
    "round the ring",
    "gloo",
    "NCCL",
    "Connection closed",
    "Timed out",
    "timed out",
)


class RankFailure(ChildProcessError):
    """Another rank failed; the message names it and what was under way."""


class CollectiveError(RuntimeError):
    """A collective of all ranks failed; the message says which."""


@contextmanager
def named(what: str) -> Iterator[None]:
    """Raise a failure of the collective within as a CollectiveError that says `what` it was."""
    try:
        yield
    except RuntimeError as error:
        if not _is_from_elsewhere(error):
            raise
        raise CollectiveError(f"{what}: {error}") from error


def cause(error: BaseException, store: Store, rank: int, size: int, at: str) -> BaseException:
    """Return what `rank`, which was `at` an operation, raises for `error`.

    That is `error` itself, recorded for the others, where it is this rank's own; otherwise a
    RankFailure that names the rank from which it came.
    """
    is_interrupted = isinstance(error, KeyboardInterrupt)
    if not is_interrupted and not _is_from_elsewhere(error):
        with suppress(dist.DistError):
            record(store, f"rank {rank}: {first_line(error)}")
        return error
    where = f"rank {rank} was at: {_place(error, at)}"
    try:
        find = _interrupter if is_interrupted else _culprit
        found = find(store, rank, size)
        if found or not is_interrupted:  # the others may come when this one is gone
            found = record(store, found or where)
    except dist.DistError:
        found = store_is_gone()
    if found is None:
        return error
    return RankFailure(where if found == where else f"{found}; {where}")


def recorded(store: Store) -> str | None:
    """Return the failure that some rank was the first to record, or None."""
    return store.get(RECORD).decode() if store.check([RECORD]) else None


def record(store: Store, failure: str) -> str:
    """Record `failure` unless one is recorded; return the recorded one."""
    return store.compare_set(RECORD, "", failure).decode()


def store_is_gone() -> str:
    """Name the process that kept the store and ended."""
    is_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return f"{'torchrun' if is_agent else 'rank 0'}, which keeps the store, is gone"


def _interrupter(store: Store, rank: int, size: int) -> str | None:
    """Find the rank that is gone, for which torchrun interrupts all others."""
    before = heard(store, size)
    time.sleep((MISSED - 1) * PERIOD)
    return recorded(store) or silent(before, heard(store, size), rank)


def _culprit(store: Store, rank: int, size: int) -> str | None:
    """Find the rank for which a collective failed: recorded soon, or else silent or behind."""
    deadline = time.monotonic() + MISSED * PERIOD
    while time.monotonic() < deadline:
        if (failure := recorded(store)) is not None:
            return failure
        time.sleep(PERIOD / 10)
    before = heard(store, size)
    time.sleep((MISSED - 1) * PERIOD)
    views = before, heard(store, size), rank
    return silent(*views) or behind(*views)


def _place(error: BaseException, operation: str) -> str:
    """Say what was under way at `error`: `operation`, and the exchange in it that failed."""
    while not _is_from_elsewhere(error) and error.__context__ is not None:
        error = error.__context__  # which a wait that fails puts before an interruption
    if not _is_from_elsewhere(error):
        return operation or "work of its own"
    exchange = first_line(error)
    return exchange if exchange.startswith(operation) else f"{operation}: {exchange}"


def _is_from_elsewhere(error: BaseException) -> bool:
    """Tell a failed exchange or collective from this rank's own trouble."""
    return isinstance(error, CollectiveError | dist.DistError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
    )
