"""Signs of life: each rank sends one a second, and the others see who is silent or behind.

A rank that hangs outside of a collective has not begun the one that the others wait in. All begin
the same ones in the same order, so the rank that has come least far, and stays there, hangs.
Knows a store, no processes.
"""

import json
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from torch.distributed import Store

PERIOD = 1.0  # seconds
MISSED = 3  # beats of a rank that is gone, once something has failed
BEATS_UNTIL_LOST = 15  # if nothing has failed: a rank that loads its weights may miss a few


class Beat(NamedTuple):
    """A rank's `count`-th sign of life: how far it has come, and the operation it is `at`.

    It has begun `operations`, and `collectives` of all ranks; one operation may hold several.
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
    """Return the last beat of every rank."""
    return [Beat(*json.loads(store.get(key(rank)))) for rank in range(size)]


def key(rank: int) -> str:
    return f"beat/{rank}"


def silent(before: Sequence[Beat], after: Sequence[Beat], rank: int) -> str | None:
    """Name another rank than `rank` that sent nothing between two looks at the beats."""
    silent = [r for r, beat in enumerate(after) if beat == before[r] and r != rank]
    return f"rank {silent[0]} died or was stopped" if silent else None


def behind(before: Sequence[Beat], after: Sequence[Beat], rank: int) -> str | None:
    """Name the rank that is behind `rank` and came no further between two looks at the beats."""
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
    """Search for a failed rank from a rank whose host awaits no collective, so that none raises.

    A rank is taken to hang when no rank has come further for `patience` seconds.
    """

    def __init__(self, rank: int, patience: float) -> None:
        self._rank, self._patience = rank, patience
        self._looks: deque[list[Beat]] = deque(maxlen=BEATS_UNTIL_LOST + 1)
        self._moved = 0.0

    def look(self, beats: list[Beat], now: float) -> str | None:
        """Look at `beats`, one period after the last look; returns who failed, or None."""
        if not self._looks or any(
            new.place != old.place for new, old in zip(beats, self._looks[-1], strict=True)
        ):
            self._moved = now
        self._looks.append(beats)
        if now - self._moved >= self._patience:
            before = self._looks[max(-1 - MISSED, -len(self._looks))]
            return silent(before, beats, self._rank) or behind(before, beats, self._rank)
        is_long = len(self._looks) > BEATS_UNTIL_LOST
        return silent(self._looks[0], beats, self._rank) if is_long else None
