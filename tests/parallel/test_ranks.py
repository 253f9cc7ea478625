"""Ranks meet, and one that is ended says why: with a store, without processes."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from torch.distributed import HashStore, TCPStore

from disca_rt.parallel.beats import PERIOD, Beat, say
from disca_rt.parallel.failures import RankFailure
from disca_rt.parallel.ranks import Ranks, _join, joined
from disca_rt.parallel.topology import Topology

CPU = torch.device("cpu")
PATIENCE = timedelta(seconds=1)


def first_of_two(store: HashStore) -> Ranks:
    return Ranks(0, 2, 2, CPU, None, store, PATIENCE)


@contextmanager
def beating(store: HashStore) -> Iterator[None]:
    """Keep both ranks alive."""
    ended = threading.Event()

    def beat() -> None:
        for count in range(10**9):
            for rank in range(2):
                say(store, rank, Beat(count))
            if ended.wait(PERIOD / 2):
                return

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()


def test_who_is_interrupted_says_what_another_told() -> None:
    store = HashStore()
    store.set("failure", "rank 1: the disk is full")
    with beating(store):
        failure = first_of_two(store).failure(KeyboardInterrupt())
    assert isinstance(failure, RankFailure)
    assert str(failure) == "rank 1: the disk is full; rank 0 was at: work of its own"


def test_who_is_interrupted_says_what_was_under_way() -> None:
    store = HashStore()
    store.set("failure", "rank 1: the disk is full")
    ranks = first_of_two(store)
    with pytest.raises(KeyboardInterrupt) as interrupted, ranks.operation("checkpoint"):
        try:
            raise RuntimeError("gloo: Connection closed by peer")
        finally:
            raise KeyboardInterrupt
    with beating(store):
        failure = ranks.failure(interrupted.value)
    assert str(failure) == (
        "rank 1: the disk is full; rank 0 was at: checkpoint: gloo: Connection closed by peer"
    )


def test_a_failure_that_is_nobody_s_is_told_as_it_is() -> None:
    store = HashStore()
    with beating(store):
        failure = first_of_two(store).failure(RuntimeError("gloo: Timed out"))
    assert isinstance(failure, RankFailure)
    assert str(failure) == "rank 0 was at: gloo: Timed out"
    assert store.get("failure") == b"rank 0 was at: gloo: Timed out"


def test_an_interruption_that_nobody_caused_stays_one() -> None:
    store = HashStore()
    interruption = KeyboardInterrupt()
    with beating(store):
        assert first_of_two(store).failure(interruption) is interruption


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> TCPStore:
    """A launcher's store, and its environment for the first of three ranks."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {
        "RANK": "0",
        "WORLD_SIZE": "3",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return store


def test_who_never_joins_is_named(started: TCPStore) -> None:
    message = (
        r"1 of 3 ranks joined within 1 s, without \[1, 2\]; see why the others did not start, or "
        "give a longer --timeout"
    )
    with pytest.raises(RankFailure, match=message), joined(CPU, PATIENCE, PATIENCE):
        pass


def test_a_group_that_cannot_be_made_is_named(
    started: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **flags: object) -> None:
        raise RuntimeError("gloo connectFullMesh failed")

    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr(torch.distributed, "init_process_group", refuse)
    message = "rank 0 was at: joining the group: gloo connectFullMesh failed"
    with pytest.raises(RankFailure, match=message), joined(CPU, PATIENCE, PATIENCE):
        pass


def test_the_groups_leave_nccl_as_many_ctas_as_asked_for(
    started: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Options:  # PyTorch's, of a build with NCCL
        def __init__(self) -> None:
            self.config = SimpleNamespace(max_ctas=None)

    made: list[object] = []

    def make(*args: object, pg_options: Options | None, **flags: object) -> None:
        made.append(pg_options and pg_options.config.max_ctas)

    dist = torch.distributed
    monkeypatch.setattr(dist, "ProcessGroupNCCL", SimpleNamespace(Options=Options), raising=False)
    monkeypatch.setattr(dist, "init_process_group", make)
    monkeypatch.setattr(dist, "new_group", make)
    monkeypatch.setattr(dist, "get_process_group_ranks", lambda world: list(range(4)))
    for max_ctas in (None, 8):
        ranks = Ranks(0, 4, 4, CPU, None, started, PATIENCE, max_ctas=max_ctas)
        _join(ranks, started)
        world = SimpleNamespace(rank=lambda: 0, size=lambda: 4)
        Topology(world, PATIENCE, ulysses_degree=2, max_ctas=max_ctas).prepare(heads=2)
    assert made == [None] * 3 + [8] * 3, "the world, and the groups and the rings in it"
    refused = pytest.raises(ValueError, match="max_ctas is for NCCL, between GPUs; leave it out")
    with refused, joined(CPU, PATIENCE, max_ctas=8):
        pass


def test_without_a_launcher_too(started: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    message = r"not all ranks joined within 1 s: .*longer --timeout"
    with pytest.raises(RankFailure, match=message), joined(CPU, PATIENCE, PATIENCE):
        pass
