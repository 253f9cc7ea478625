"""The search: the best list by dynamic programming, then by what samples say."""

import time
from itertools import combinations, count
from pathlib import Path

import pytest

from disca_rt.cache_judge.record import Record
from disca_rt.cache_search.lists import best_list, neighbours
from disca_rt.cache_search.search import Found, Search
from made_up_subject import MadeUp


def drifts(steps: int) -> list[list[float]]:
    """Errors of gaps that grow as their square, and twice as much in the first half."""
    return [
        [float((k - j - 1) ** 2 * (2 if j < steps // 2 else 1)) for k in range(steps + 1)]
        for j in range(steps)
    ]


@pytest.mark.parametrize("full", range(1, 9))
def test_the_best_list_is_the_best_of_all(full: int) -> None:
    table = drifts(8)

    def error(step_list: tuple[int, ...]) -> float:
        return sum(table[j][k] for j, k in zip(step_list, (*step_list[1:], 8), strict=True))

    every = [(0, *rest) for rest in combinations(range(1, 8), full - 1)]
    assert best_list(table, full) == min(every, key=error)


def test_neighbours_are_the_lists_one_step_away() -> None:
    near = list(neighbours((0, 2, 5), 7))
    assert near[:4] == [(0, 1, 5), (0, 3, 5), (0, 2, 4), (0, 2, 6)]
    assert len(near) == len(set(near)) == 2 * 4
    assert list(neighbours((0,), 7)) == []


def search(path: Path, subject: MadeUp, budget: float = 4.7, most: int = 40) -> list[Found]:
    run = Search(subject, Record(path), budget, lambda text: None)
    return run.run(["reuse", "taylor:order=1"], most)


def test_the_found_policy_is_the_best_within_the_budget(tmp_path: Path) -> None:
    subject = MadeUp()
    found = search(tmp_path / "search.jsonl", subject)
    assert [one.policy.partition(":")[0] for one in found] == ["taylor", "reuse"]
    every = {
        step_list: subject.errors(f"reuse:step_list={','.join(map(str, step_list))}", 0)[-1]
        for step_list in ((0, *rest) for rest in combinations(range(1, 8), 3))
    }
    assert all(one.full_steps <= 4.7 for one in found)
    assert {every[one.step_list] for one in found} == {min(every.values())}


def test_the_same_search_ends_alike_and_goes_on_where_it_was(tmp_path: Path) -> None:
    expected = search(tmp_path / "one.jsonl", MadeUp())
    interrupted = MadeUp()
    interrupted.stop_after = 10
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "two.jsonl", interrupted)
    again = MadeUp()
    assert search(tmp_path / "two.jsonl", again) == expected
    last = MadeUp()
    assert search(tmp_path / "two.jsonl", last) == expected
    assert again.sampled
    assert not last.sampled


@pytest.mark.parametrize("name", ["reuse+taylor:order=1", "taylor+disca-fed"])
def test_the_list_of_a_combination_is_that_of_its_rule(name: str, tmp_path: Path) -> None:
    run = Search(MadeUp(steps=5), Record(tmp_path / "search.jsonl"), 3.9, lambda text: None)
    (found,) = run.run([name], 4)
    rule, stand_in = name.split("+")
    listed = ",".join(map(str, found.step_list))
    assert found.policy == f"{rule}:step_list={listed}+{stand_in}"


def test_a_search_tells_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count()
    monkeypatch.setattr(time, "monotonic", lambda: 10.0 * next(clock))
    told: list[str] = []
    subject = MadeUp(steps=5)
    Search(subject, Record(tmp_path / "search.jsonl"), 3.9, told.append).run(["reuse"], 4)
    assert told[0] == f"made-up, 8 steps: {len(subject.prompts)} prompts without a cache"
    assert any(line.startswith("reuse: drifts after step 2 of 4, prompt ") for line in told)
    assert "reuse: list 3 of at most 4" in told


def test_a_budget_below_one_full_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"budget 0.5 is too small for reuse"):
        search(tmp_path / "search.jsonl", MadeUp(), budget=0.5)
