"""What a rank says of itself once a second, and what the others see in it.

A rank that hangs outside of a collective has not begun the one that the others wait in. All begin
the same ones in the same order, so who has come least far, and stays there, is the one that hangs.
Knows a store, no processes.
"""

import json
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from torch.distributed import Store

PERIOD = 1.0  # seconds
MISSED = 3  # beats of a rank that is not there, where something has failed
LOST = 15  # where nothing has: a rank that loads its weights may miss a few


class Beat(NamedTuple):
    """The `count`-th of a rank: how far it is, and `at` what.

    It has begun `operations`, and `collectives` of all ranks, which may be inside of one.
    """

    count: int = 0
    operations: int = 0
    collectives: int = 0
    at: str = ""

    @property
    def place(self) -> tuple[int, int]:
        return self.operations, self.collectives


def say(store: Store, rank: int, beat: Beat) -> None:
    store.set(key(rank), json.dumps(beat))


def heard(store: Store, size: int) -> list[Beat]:
    """The last one of every rank."""
    return [Beat(*json.loads(store.get(key(rank)))) for rank in range(size)]


def key(rank: int) -> str:
    return f"beat/{rank}"


def silent(before: Sequence[Beat], after: Sequence[Beat], rank: int) -> str | None:
    """Who has said nothing in between, as seen by `rank`."""
    silent = [r for r, beat in enumerate(after) if beat == before[r] and r != rank]
    return f"rank {silent[0]} died or was stopped" if silent else None


def behind(before: Sequence[Beat], after: Sequence[Beat], rank: int) -> str | None:
    """Who has come less far than `rank`, and no further in between."""
    slowest = min(range(len(after)), key=lambda r: after[r].place)
    theirs, ours = after[slowest], after[rank]
    if theirs.place >= ours.place or theirs.place > before[slowest].place:
        return None  # nobody, or somebody at what is not counted
    at = f" in {theirs.at}" if theirs.at else ""
    if theirs.operations < ours.operations:
        how_far = f"{theirs.operations} operations of {ours.operations}"
    else:
        how_far = f"{theirs.collectives} collectives of {ours.collectives}"
    return f"rank {slowest} hangs{at} after {how_far}"


class Watch:
    """Who fails, for a rank whose host waits for no collective: none could tell it.

    Somebody hangs when nobody has come further for `patience` seconds.
    """

    def __init__(self, rank: int, patience: float) -> None:
        self._rank, self._patience = rank, patience
        self._looks: deque[list[Beat]] = deque(maxlen=LOST + 1)
        self._moved = 0.0

    def look(self, beats: list[Beat], now: float) -> str | None:
        """At `beats`, one period after the last look."""
        if not self._looks or any(
            new.place != old.place for new, old in zip(beats, self._looks[-1], strict=True)
        ):
            self._moved = now
        self._looks.append(beats)
        if now - self._moved >= self._patience:
            before = self._looks[max(-1 - MISSED, -len(self._looks))]
            return silent(before, beats, self._rank) or behind(before, beats, self._rank)
        return silent(self._looks[0], beats, self._rank) if len(self._looks) > LOST else None
