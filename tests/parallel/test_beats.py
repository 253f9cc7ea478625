"""Beats name the rank that fails."""

import pytest

from disca_rt.parallel.beats import BEATS_UNTIL_LOST, Beat, Watch, behind, silent

FAR = Beat(1, operations=5, collectives=9, at="checkpoint")


def test_who_says_nothing_is_named() -> None:
    before = [Beat(4), Beat(4), Beat(4)]
    assert silent(before, [Beat(5), Beat(4), Beat(5)], 0) == "rank 1 died or was stopped"
    assert silent(before, [Beat(4), Beat(5), Beat(5)], 0) is None  # not by itself


@pytest.mark.parametrize(
    ("theirs", "named"),
    [
        (Beat(1, 3, 9), "rank 1 hangs after 3 operations of 5"),
        (Beat(1, 4, 8, "barrier"), "rank 1 hangs in barrier after 4 operations of 5"),
        (Beat(1, 5, 7, "checkpoint"), "rank 1 hangs in checkpoint after 7 collectives of 9"),
        (FAR, None),
        (Beat(1, 6, 10), None),
    ],
)
def test_who_is_behind_and_stays_there_hangs(theirs: Beat, named: str | None) -> None:
    after = [FAR, theirs, FAR]
    assert behind(after, after, 0) == named


def test_who_is_behind_and_comes_on_does_not_hang() -> None:
    assert behind([FAR, Beat(0, 2, 2)], [FAR, Beat(1, 3, 3)], 0) is None


def test_nobody_hangs_behind_who_is_last() -> None:
    assert behind([FAR, Beat(1, 3, 3)], [FAR, Beat(1, 3, 3)], 1) is None


def test_a_watch_waits_for_its_patience() -> None:
    watch = Watch(rank=0, patience=10)
    found = [watch.look([FAR._replace(count=at), Beat(at, 3, 9)], float(at)) for at in range(12)]
    assert found == [None] * 10 + ["rank 1 hangs after 3 operations of 5"] * 2


def test_a_watch_that_sees_somebody_move_waits_on() -> None:
    watch = Watch(rank=0, patience=10)
    for at in range(40):
        assert watch.look([FAR._replace(count=at), Beat(at, at // 9, 9)], float(at)) is None


def test_who_was_stopped_does_not_hang() -> None:
    watch = Watch(rank=0, patience=10)
    found = [watch.look([FAR._replace(count=at), Beat(7)], float(at)) for at in range(11)]
    assert found == [None] * 10 + ["rank 1 died or was stopped"]


def test_a_watch_hears_a_long_silence() -> None:
    watch = Watch(rank=0, patience=100)
    found = [
        watch.look([FAR._replace(count=at), Beat(7)], float(at))
        for at in range(BEATS_UNTIL_LOST + 1)
    ]
    assert found == [None] * BEATS_UNTIL_LOST + ["rank 1 died or was stopped"]
