"""The ranks that share a sample: joined from torchrun's environment, alike, and ended together.

Every rank says once a second that it lives and how far it is (`beats.py`). Where one fails, the
others' exchange fails too, or runs into the time-out; each then says which rank it was, and at what
(`failures.py`). Knows processes and a store, no tensors of a model.
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
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, ProcessGroup, Store

from .. import __version__
from ..errors import first_line
from .beats import MISSED, PERIOD, Beat, Watch, heard, key, say
from .failures import RankFailure, cause, named, record, recorded, store_is_gone
from .nccl import nccl_options

if TYPE_CHECKING:
    from .attention import UlyssesAttention

TIMEOUT = 60.0  # seconds
MEETING = timedelta(seconds=60)
FAILURE = 2  # exit code


def is_launched() -> bool:
    """Tell whether this process is one of several that torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@dataclass
class Ranks:
    """This process among those that share a sample, `per_node` of them on one machine.

    `group` is None until they have joined. `attention` counts the exchanges that it has begun;
    `own` counts all other operations, of which the one called `at` is under way. NCCL's kernels
    have at most `max_ctas` thread blocks.
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
    max_ctas: int | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def use(self, attention: "UlyssesAttention") -> "UlyssesAttention":
        """Count what `attention` begins, and close it when these ranks part."""
        self.attention = attention
        return attention

    @contextmanager
    def operation(self, what: str) -> Iterator[None]:
        """Count an operation of all ranks, and call it `what` in the error if it fails."""
        self.own += 1
        self.at, outer = what, self.at
        with named(what):
            yield
        self.at = outer  # but not after a failure, whose place it is

    def barrier(self, what: str = "barrier") -> None:
        """Wait until all ranks have come here."""
        with self.operation(what):
            dist.barrier(self.group)

    def check_alike(self, arguments: Mapping[str, str]) -> None:
        """Raise ValueError, on all ranks, where one has other `arguments` than rank 0.

        The versions of this package and of PyTorch are compared, too.
        """
        arguments = {**arguments, "disca_rt": __version__, "torch": torch.__version__}
        self.store.set(f"arguments/{self.rank}", json.dumps(dict(arguments)))
        self.barrier("comparing arguments")
        everyone = [json.loads(self.store.get(f"arguments/{r}")) for r in range(self.size)]
        for rank, theirs in enumerate(everyone):
            for name in sorted({*theirs, *everyone[0]}):
                if theirs.get(name) != everyone[0].get(name):
                    raise ValueError(
                        f"ranks must be started alike: {name} is {everyone[0].get(name)} on rank 0 "
                        f"and {theirs.get(name)} on rank {rank}"
                    )

    def say(self, count: int) -> None:
        """Send the `count`-th sign of life."""
        begun = self.own + (0 if self.attention is None else self.attention.begun)
        collectives = 0 if self.group is None else self.group._get_sequence_number_for_group()
        say(self.store, self.rank, Beat(count, begun, collectives, self.at))

    def failure(self, error: BaseException) -> BaseException:
        """Return what to raise for `error`; see `failures.cause`."""
        return cause(error, self.store, self.rank, self.size, self.at)


@contextmanager
def joined(
    device: torch.device,
    timeout: timedelta,
    meeting: timedelta = MEETING,
    max_ctas: int | None = None,
) -> Iterator[Ranks]:
    """Join the ranks that torchrun started, until the block ends; errors in it name their rank.

    All must have come within `timeout`, or within `meeting` where that is longer: some start long
    before others. `max_ctas`: see `Ranks`; ValueError where they do not exchange by NCCL.
    """
    if max_ctas is not None and device.type != "cuda":
        raise ValueError(f"max_ctas is for NCCL, between GPUs; leave it out on a {device.type}")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    base, store, rank, size = _met(max(timeout, meeting))
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    ranks = Ranks(rank, size, per_node, device, None, store, timeout, max_ctas=max_ctas)
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(ranks, ended), daemon=True)
    heart.start()
    try:
        with ranks.operation("joining the group"):
            _join(ranks, base)
        yield ranks
        ranks.barrier()
    except GeneratorExit:  # an interruption came on the way here: no failure of this rank's
        raise
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
    """Meet all ranks: returns PyTorch's store, ours, this process' rank, and their number.

    Ours is a connection of its own: a wait for another rank on one blocks its other users.
    """
    within = f"within {timeout.total_seconds():g} s"
    way_out = "see why the others did not start, or give a longer --timeout"
    try:
        base, rank, size = next(dist.rendezvous("env://", timeout=timeout))
    except dist.DistError as error:
        raise RankFailure(
            f"not all ranks joined {within}: {first_line(error)}; {way_out}"
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
        pg_options=nccl_options(ranks.max_ctas, ranks.timeout),
    )
    ranks.group = dist.group.WORLD


def _failure(ranks: Ranks, error: BaseException) -> BaseException:
    """Return `ranks.failure(error)`, found without being interrupted."""
    try:
        with _uninterrupted():
            return ranks.failure(error)
    except KeyboardInterrupt:  # it had come already, and a wait held it up
        with _uninterrupted():
            return ranks.failure(error)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore interruptions: torchrun sends them when one rank is gone, amid the search for it."""
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


def _beat(ranks: Ranks, ended: threading.Event) -> None:
    """Say that this rank lives; end it for another's failure where no collective would."""
    count, found = 1, 0
    watch = None if _waits_on_host(ranks) else Watch(ranks.rank, _patience(ranks))
    try:
        while not ended.wait(PERIOD):
            ranks.say(count)
            count += 1
            if watch is not None:
                beats = heard(ranks.store, ranks.size)
                failed = recorded(ranks.store) or watch.look(beats, time.monotonic())
                found = 0 if failed is None else found + 1
                _end(ranks, failed, found)
    except dist.DistError:  # where the host waits, the next collective fails and says so
        if watch is not None and not ended.wait(3 * MISSED * PERIOD):
            _exit(ranks, store_is_gone())


def _patience(ranks: Ranks) -> float:
    """Seconds without progress after which this process ends: NCCL, later, would name no rank."""
    timeout = ranks.timeout.total_seconds()
    return max(timeout / 2, timeout - 4 * MISSED * PERIOD)


def _waits_on_host(ranks: Ranks) -> bool:
    """Tell whether a collective that fails raises an error, as NCCL's do not."""
    return ranks.device.type != "cuda"


def _end(ranks: Ranks, failed: str | None, found: int) -> None:
    """End this process as another rank has `failed`, if that was `found` at several beats."""
    if found == MISSED:
        record(ranks.store, failed)
        _thread.interrupt_main()  # not heard where it waits for the GPU
    if found == 3 * MISSED:
        _exit(ranks, failed)


def _exit(ranks: Ranks, failed: str) -> None:
    line = f"{failed}; rank {ranks.rank} was at: {ranks.at or 'work on the GPU'}"
    print(f"disca-rt: error: {line}", file=sys.stderr, flush=True)
    os._exit(FAILURE)
