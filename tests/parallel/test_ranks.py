"""How ranks meet: with a store, without processes."""

import socket
from datetime import timedelta

import pytest
import torch
from torch.distributed import TCPStore

from disca_rt.parallel.ranks import RankFailure, joined

CPU = torch.device("cpu")
PATIENCE = timedelta(seconds=1)


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


def test_without_a_launcher_too(started: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    message = r"not all ranks joined within 1 s: .*longer --timeout"
    with pytest.raises(RankFailure, match=message), joined(CPU, PATIENCE, PATIENCE):
        pass
