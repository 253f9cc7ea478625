"""The GPU's clock: what is queued in which order, and on a GPU that a launch is not in the time."""

import time
from types import SimpleNamespace

import pytest
import torch

from disca_rt.instruments.gpu_clock import FLUSHED, FLUSHES, GPUClock


def test_a_call_is_launched_while_the_gpu_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            log.append("event")

        def synchronize(self) -> None:
            log.append("wait")

        def elapsed_time(self, end: "Event") -> float:
            return 2.5  # ms

    memory = SimpleNamespace(zero_=lambda: log.append("flush"))
    monkeypatch.setattr(torch, "empty", lambda *_, **__: memory)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert GPUClock(torch.device("cuda"))(lambda: log.append("call")) == 0.0025
    assert log == ["flush"] * FLUSHES + ["event", "call", "event", "wait"]


def test_what_is_queued_ahead_lasts_longer_than_a_launch() -> None:
    assert FLUSHES * FLUSHED / 4e12 > 300e-6  # at the 4 TB/s of an H200


@pytest.mark.gpu
def test_time_on_the_host_is_not_the_gpu_s() -> None:
    clock, x = GPUClock(torch.device("cuda")), torch.ones(1, device="cuda")
    clock(x.zero_)

    def slowly() -> None:
        x.zero_()
        time.sleep(100e-6)

    assert clock(slowly) < 50e-6
