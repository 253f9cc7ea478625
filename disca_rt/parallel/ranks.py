"""The ranks that share a sample: joined from torchrun's environment, alike, and ended together.

Every rank says once a second that it lives and how far it is. Where one fails, the others' exchange
fails too, or runs into the time-out; each then says which rank it was, and at what. Knows processes
and a store, no tensors of a model.
"""

import gc
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, ProcessGroup, Store

from .. import __version__

if TYPE_CHECKING:
    from .attention import UlyssesAttention

TIMEOUT = 60.0  # seconds
MEETING = timedelta(seconds=60)
BEAT = 1.0  # seconds
MISSED = 3  # beats
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


@dataclass
class Ranks:
    """This process among those that share a sample, `per_node` of them on one machine.

    `attention` counts what it has begun itself; `own` counts the rest.
    """

    rank: int
    size: int
    per_node: int
    device: torch.device
    group: ProcessGroup
    store: Store
    timeout: timedelta
    attention: "UlyssesAttention | None" = None
    own: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def begun(self) -> int:
        """How far this rank is."""
        return self.own + (0 if self.attention is None else self.attention.begun)

    def use(self, attention: "UlyssesAttention") -> "UlyssesAttention":
        """Count what `attention` begins, and close it when these ranks part."""
        self.attention = attention
        return attention

    @contextmanager
    def operation(self, what: str) -> Iterator[None]:
        """Counts what all ranks do together, and names it where it fails."""
        self.own += 1
        with named(what):
            yield

    def barrier(self) -> None:
        with self.operation("barrier"):
            dist.barrier(self.group)

    def check_alike(self, arguments: Mapping[str, str]) -> None:
        """ValueError, on all ranks, where one was started with other `arguments` than rank 0.

        Or with another version of this package or of PyTorch.
        """
        arguments = {**arguments, "disca_rt": __version__, "torch": torch.__version__}
        self.store.set(f"arguments/{self.rank}", json.dumps(dict(arguments)))
        everyone = [json.loads(self.store.get(f"arguments/{r}")) for r in range(self.size)]
        for rank, theirs in enumerate(everyone):
            for name in sorted({*theirs, *everyone[0]}):
                if theirs.get(name) != everyone[0].get(name):
                    raise ValueError(
                        f"ranks must be started alike: {name} is {everyone[0].get(name)} on rank 0 "
                        f"and {theirs.get(name)} on rank {rank}"
                    )

    def failure(self, error: BaseException) -> BaseException:
        """What to raise for `error`: itself, told to the others, or the failure it came from."""
        if isinstance(error, KeyboardInterrupt):  # torchrun interrupts all when one is gone
            silent = self._silent()
            told = self._told(patience=0.0) or silent
            return RankFailure(told) if told else error
        if not _is_from_elsewhere(error):
            first = f"rank {self.rank}: {_first_line(error)}"
            self.store.compare_set("failure", "", first)
            return error
        told = self._told() or self._silent() or self._behind()
        if told:  # the first to know tells the others, which may come when this one is gone
            told = self.store.compare_set("failure", "", told).decode()
        where = f"rank {self.rank} was at: {_first_line(error)}"
        return RankFailure(f"{told}; {where}" if told else where)

    def _told(self, patience: float = MISSED * BEAT) -> str | None:
        deadline = time.monotonic() + patience
        while not self.store.check(["failure"]):
            if time.monotonic() > deadline:
                return None
            time.sleep(BEAT / 10)
        return self.store.get("failure").decode()

    def _silent(self) -> str | None:
        beats = self._beats()
        time.sleep((MISSED - 1) * BEAT)
        silent = [r for r, now in enumerate(self._beats()) if now == beats[r] and r != self.rank]
        return f"rank {silent[0]} died or was stopped" if silent else None

    def _behind(self) -> str | None:
        done = [int(beat.split()[1]) for beat in self._beats()]
        slowest = min(range(self.size), key=done.__getitem__)
        if done[slowest] >= done[self.rank]:
            return None  # who hangs is at something that is not counted
        return f"rank {slowest} hangs after {done[slowest]} operations of {done[self.rank]}"

    def _beats(self) -> list[str]:
        return [self.store.get(f"beat/{rank}").decode() for rank in range(self.size)]


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
    base, rank, size = _met(max(timeout, meeting))
    store = PrefixStore("disca_rt", base)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore("group", base),
        rank=rank,
        world_size=size,
        timeout=timeout,
    )
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    ranks = Ranks(rank, size, per_node, device, dist.group.WORLD, store, timeout)
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(ranks, ended), daemon=True)
    _say(ranks, 0)
    heart.start()
    try:
        yield ranks
        ranks.barrier()
    except BaseException as error:
        with _uninterrupted():
            failure = ranks.failure(error)
        raise failure from None
    finally:
        ended.set()
        heart.join()
    if ranks.attention is not None:
        ranks.attention.close()
    gc.collect()  # what still holds the group must not outlive it
    dist.destroy_process_group()  # not after a failure: it would wait for who is gone


def _met(timeout: timedelta) -> tuple[Store, int, int]:
    """The store that all ranks have come to, this one's number, and how many they are."""
    within = f"within {timeout.total_seconds():g} s"
    way_out = "see why the others did not start, or give a longer --timeout"
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
    except dist.DistError as error:
        raise RankFailure(
            f"not all ranks joined {within}: {_first_line(error)}; {way_out}"
        ) from None
    store.set(f"joined/{rank}", "")
    try:
        store.wait([f"joined/{each}" for each in range(size)], timeout)
    except dist.DistError:
        absent = [each for each in range(size) if not store.check([f"joined/{each}"])]
        raise RankFailure(
            f"{size - len(absent)} of {size} ranks joined {within}, without {absent}; {way_out}"
        ) from None
    return store, rank, size


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
        raise RuntimeError(f"{what}: {error}") from error


def _beat(ranks: Ranks, ended: threading.Event) -> None:
    count = 1
    while not ended.wait(BEAT):
        _say(ranks, count)
        count += 1


def _say(ranks: Ranks, count: int) -> None:
    ranks.store.set(f"beat/{ranks.rank}", f"{count} {ranks.begun}")


def _is_from_elsewhere(error: BaseException) -> bool:
    """An exchange or collective that failed, rather than this rank's own trouble."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
