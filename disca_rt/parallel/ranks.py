"""The ranks that share a sample: joined from torchrun's environment, alike, and ended together.

Every rank says once a second that it lives and how far it is. Where one fails, the others' exchange
fails too, or runs into the time-out; each then says which rank it was, and at what. Knows processes
and a store, no tensors of a model.
"""

import _thread
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, ProcessGroup, Store

from .. import __version__
from .beats import MISSED, PERIOD, Beat, Watch, behind, heard, key, say, silent

if TYPE_CHECKING:
    from .attention import UlyssesAttention

TIMEOUT = 60.0  # seconds
MEETING = timedelta(seconds=60)
FAILURE = 2  # exit code
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


def is_launched() -> bool:
    """Whether this process is one of several that torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


class RankFailure(ChildProcessError):
    """Another rank failed; the message names it and what was under way."""


class CollectiveError(RuntimeError):
    """A collective of all ranks failed; the message says which."""


@dataclass
class Ranks:
    """This process among those that share a sample, `per_node` of them on one machine.

    `group` is there once they have joined. `attention` counts what it has begun itself; `own`
    counts the rest, of which `at` is under way.
    """

    rank: int
    size: int
    per_node: int
    device: torch.device
    group: ProcessGroup | None
    store: Store
    timeout: timedelta
    attention: "UlyssesAttention | None" = None
    own: int = 0
    at: str = ""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def use(self, attention: "UlyssesAttention") -> "UlyssesAttention":
        """Count what `attention` begins, and close it when these ranks part."""
        self.attention = attention
        return attention

    @contextmanager
    def operation(self, what: str) -> Iterator[None]:
        """Counts what all ranks do together, and names it where it fails."""
        self.own += 1
        self.at, outer = what, self.at
        with named(what):
            yield
        self.at = outer  # but not after a failure, whose place it is

    def barrier(self) -> None:
        with self.operation("barrier"):
            dist.barrier(self.group)

    def check_alike(self, arguments: Mapping[str, str]) -> None:
        """ValueError, on all ranks, where one was started with other `arguments` than rank 0.

        Or with another version of this package or of PyTorch.
        """
        arguments = {**arguments, "disca_rt": __version__, "torch": torch.__version__}
        self.store.set(f"arguments/{self.rank}", json.dumps(dict(arguments)))
        with self.operation("comparing arguments"):
            dist.barrier(self.group)
        everyone = [json.loads(self.store.get(f"arguments/{r}")) for r in range(self.size)]
        for rank, theirs in enumerate(everyone):
            for name in sorted({*theirs, *everyone[0]}):
                if theirs.get(name) != everyone[0].get(name):
                    raise ValueError(
                        f"ranks must be started alike: {name} is {everyone[0].get(name)} on rank 0 "
                        f"and {theirs.get(name)} on rank {rank}"
                    )

    def say(self, count: int) -> None:
        """The `count`-th sign of life."""
        begun = self.own + (0 if self.attention is None else self.attention.begun)
        collectives = 0 if self.group is None else self.group._get_sequence_number_for_group()
        say(self.store, self.rank, Beat(count, begun, collectives, self.at))

    def heard(self) -> list[Beat]:
        return heard(self.store, self.size)

    def failure(self, error: BaseException) -> BaseException:
        """What to raise for `error`: itself, told to the others, or the failure it came from."""
        is_interrupted = isinstance(error, KeyboardInterrupt)
        if not is_interrupted and not _is_from_elsewhere(error):
            with suppress(dist.DistError):
                self.tell(f"rank {self.rank}: {_first_line(error)}")
            return error
        where = self._where(error)
        try:
            told = self._interrupter() if is_interrupted else self._culprit()
            if told or not is_interrupted:  # the others may come when this one is gone
                told = self.tell(told or where)
        except dist.DistError:
            told = _store_is_gone()
        if told is None:
            return error
        return RankFailure(where if told == where else f"{told}; {where}")

    def told(self) -> str | None:
        """The failure that some rank was the first to know."""
        return self.store.get("failure").decode() if self.store.check(["failure"]) else None

    def tell(self, failure: str) -> str:
        """The same, which is `failure` if no other was known."""
        return self.store.compare_set("failure", "", failure).decode()

    def _interrupter(self) -> str | None:
        """torchrun interrupts all when one is gone."""
        before = self.heard()
        time.sleep((MISSED - 1) * PERIOD)
        return self.told() or silent(before, self.heard(), self.rank)

    def _culprit(self) -> str | None:
        deadline = time.monotonic() + MISSED * PERIOD
        while time.monotonic() < deadline:
            told = self.told()
            if told is not None:
                return told
            time.sleep(PERIOD / 10)
        before = self.heard()
        time.sleep((MISSED - 1) * PERIOD)
        views = before, self.heard(), self.rank
        return silent(*views) or behind(*views)

    def _where(self, error: BaseException) -> str:
        while not _is_from_elsewhere(error) and error.__context__ is not None:
            error = error.__context__  # which a wait that fails puts before an interruption
        at = self.at or "work of its own"
        if _is_from_elsewhere(error):
            at, operation = _first_line(error), self.at
            if not at.startswith(operation):
                at = f"{operation}: {at}"
        return f"rank {self.rank} was at: {at}"


@contextmanager
def joined(
    device: torch.device, timeout: timedelta, meeting: timedelta = MEETING
) -> Iterator[Ranks]:
    """The ranks that torchrun started, until the block ends; what fails in it names its rank.

    They have `timeout` to come, and at least `meeting`: some start long before others.
    """
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    base, store, rank, size = _met(max(timeout, meeting))
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    ranks = Ranks(rank, size, per_node, device, None, store, timeout)
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(ranks, ended), daemon=True)
    heart.start()
    try:
        with ranks.operation("joining the group"):
            _join(ranks, base)
        yield ranks
        ranks.barrier()
    except BaseException as error:
        raise _failure(ranks, error) from None
    finally:
        ended.set()
        heart.join()
    if ranks.attention is not None:
        ranks.attention.close()
    gc.collect()  # what still holds the group must not outlive it
    dist.destroy_process_group()  # not after a failure: it would wait for who is gone


def _met(timeout: timedelta) -> tuple[Store, Store, int, int]:
    """The store that all ranks have come to, for PyTorch and for us, and which of how many this is.

    Ours is a connection of its own: what waits for another rank on one keeps its other users out.
    """
    within = f"within {timeout.total_seconds():g} s"
    way_out = "see why the others did not start, or give a longer --timeout"
    try:
        base, rank, size = next(dist.rendezvous("env://", timeout=timeout))
    except dist.DistError as error:
        raise RankFailure(
            f"not all ranks joined {within}: {_first_line(error)}; {way_out}"
        ) from None
    store = PrefixStore("disca_rt", base.clone())
    say(store, rank, Beat())
    try:
        store.wait([key(each) for each in range(size)], timeout)
    except dist.DistError:
        absent = [each for each in range(size) if not store.check([key(each)])]
        raise RankFailure(
            f"{size - len(absent)} of {size} ranks joined {within}, without {absent}; {way_out}"
        ) from None
    return base, store, rank, size


def _join(ranks: Ranks, base: Store) -> None:
    dist.init_process_group(
        "nccl" if ranks.device.type == "cuda" else "gloo",
        store=PrefixStore("group", base),
        rank=ranks.rank,
        world_size=ranks.size,
        timeout=ranks.timeout,
    )
    ranks.group = dist.group.WORLD


def _failure(ranks: Ranks, error: BaseException) -> BaseException:
    """`ranks.failure`, in peace."""
    try:
        with _uninterrupted():
            return ranks.failure(error)
    except KeyboardInterrupt:  # it had come already, and a wait held it up
        with _uninterrupted():
            return ranks.failure(error)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """torchrun interrupts all when one is gone: not while they find out which one it was."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ends = signal.SIGTERM, signal.SIGINT
    before = [signal.signal(each, signal.SIG_IGN) for each in ends]
    try:
        yield
    finally:
        for each, handler in zip(ends, before, strict=True):
            signal.signal(each, handler)


@contextmanager
def named(what: str) -> Iterator[None]:
    """Says of a collective that fails what it was."""
    try:
        yield
    except RuntimeError as error:
        if not _is_from_elsewhere(error):
            raise
        raise CollectiveError(f"{what}: {error}") from error


def _beat(ranks: Ranks, ended: threading.Event) -> None:
    """Says that this rank lives, and ends it for another where no collective would tell."""
    count, found = 1, 0
    watch = None if _waits_on_host(ranks) else Watch(ranks.rank, _patience(ranks))
    try:
        while not ended.wait(PERIOD):
            ranks.say(count)
            count += 1
            if watch is not None:
                failed = ranks.told() or watch.look(ranks.heard(), time.monotonic())
                found = 0 if failed is None else found + 1
                _end(ranks, failed, found)
    except dist.DistError:  # where the host waits, the next collective fails and says so
        if watch is not None and not ended.wait(3 * MISSED * PERIOD):
            _exit(ranks, _store_is_gone())


def _patience(ranks: Ranks) -> float:
    """Seconds that leave time to end this process before NCCL does, which names no rank."""
    timeout = ranks.timeout.total_seconds()
    return max(timeout / 2, timeout - 4 * MISSED * PERIOD)


def _waits_on_host(ranks: Ranks) -> bool:
    """Whether a collective that fails raises an error, as NCCL's do not."""
    return ranks.device.type != "cuda"


def _end(ranks: Ranks, failed: str | None, found: int) -> None:
    """Ends this process for who has `failed`, if it has not done so itself by the next beats."""
    if found == MISSED:
        ranks.tell(failed)
        _thread.interrupt_main()  # not heard where it waits for the GPU
    if found == 3 * MISSED:
        _exit(ranks, failed)


def _exit(ranks: Ranks, failed: str) -> None:
    line = f"{failed}; rank {ranks.rank} was at: {ranks.at or 'work on the GPU'}"
    print(f"disca-rt: error: {line}", file=sys.stderr, flush=True)
    os._exit(FAILURE)


def _store_is_gone() -> str:
    is_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return f"{'torchrun' if is_agent else 'rank 0'}, which keeps the store, is gone"


def _is_from_elsewhere(error: BaseException) -> bool:
    """An exchange or collective that failed, rather than this rank's own trouble."""
    return isinstance(error, CollectiveError | dist.DistError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
