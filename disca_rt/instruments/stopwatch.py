"""Stopwatch for the stages of a sample that does not stall the device.

On a GPU events are recorded and read once at the end; elsewhere the wall clock is enough.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch

T = TypeVar("T")


class StageTime(NamedTuple):
    """Time of one stage: `count` runs took `time_s` seconds together."""

    count: int
    time_s: float


class Stopwatch:
    """Sums of the times of named stages on `device`."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: dict[str, list[tuple[object, object]]] = defaultdict(list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times the enclosed work under `name`."""
        started = self.start()
        yield
        self.stop(name, started)

    def start(self) -> object:
        """Mark to give to `stop`, for work whose name is known only when it is done."""
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def stop(self, name: str, started: object) -> None:
        """Adds the time since `started` to the stage called `name`."""
        self._marks[name].append((started, self.start()))

    def timed(self, name: str, pieces: Iterable[T]) -> Iterator[T]:
        """Give out `pieces`, and add the time in which each is made to the stage called `name`."""
        started = self.start()
        for piece in pieces:
            self.stop(name, started)
            yield piece
            started = self.start()

    def times(self) -> dict[str, StageTime]:
        """Times by stage, in the order in which they first ran. Waits for the device."""
        if self._on_gpu:
            torch.cuda.synchronize()
        return {
            name: StageTime(len(spans), sum(self._seconds(*span) for span in spans))
            for name, spans in self._marks.items()
        }

    def _seconds(self, start: object, end: object) -> float:
        return start.elapsed_time(end) / 1000 if self._on_gpu else end - start


def added(*times: Mapping[str, StageTime]) -> dict[str, StageTime]:
    """Sum times of the same stage, in the order in which stages first appear."""
    sums: dict[str, StageTime] = {}
    for name, each in (item for some in times for item in some.items()):
        before = sums.get(name, StageTime(0, 0.0))
        sums[name] = StageTime(before.count + each.count, before.time_s + each.time_s)
    return sums
