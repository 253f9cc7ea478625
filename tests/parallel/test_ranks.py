"""Ranks meet, and one that is ended says why: with a store, without processes."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
import torch
from torch.distributed import HashStore, TCPStore

from disca_rt.parallel.beats import PERIOD, Beat, say
from disca_rt.parallel.failures import RankFailure
from disca_rt.parallel.ranks import Ranks, joined

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


def test_without_a_launcher_too(started: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    message = r"not all ranks joined within 1 s: .*longer --timeout"
    with pytest.raises(RankFailure, match=message), joined(CPU, PATIENCE, PATIENCE):
        pass
