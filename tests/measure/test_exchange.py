"""Benchmark of exchanges on two ranks, on the smallest shapes. No test looks at a time."""

from pathlib import Path

import pytest

from bench import exchange
from bench.exchange import main, measured_by
from bench.traffic import IO
from bench.ulysses import EVEN, UNEVEN, Way
from disca_rt.measure.harness import Comparison, Contender, measure
from disca_rt.measure.machine import this_machine
from disca_rt.measure.record import Record, read_records

RECORDS = pytest.mark.xdist_group("exchange records")  # measured by one worker for all tests


@pytest.fixture(scope="module")
def records() -> list[Record]:
    pytest.importorskip("diffusers")
    return measured_by(2, samples=1, is_small=True)


@pytest.mark.slow
@RECORDS
@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("exchange, even", EVEN),
        ("exchange, two samples", EVEN),
        ("exchange, uneven", UNEVEN),
        ("attention layer", EVEN),
    ],
)
def test_every_way_is_measured(records: list[Record], name: str, ways: tuple[Way, ...]) -> None:
    measured = [each for each in records if each.benchmark == f"{name}, 2 ranks"]
    assert [each.contender for each in measured] == [way.name for way in ways]
    for each in measured:
        assert each.baseline == ways[0].name
        assert (each.samples, each.threads, each.shape["ranks"]) == (1, 1, 2)
        assert each.relative_difference == 0.0
        assert each.goal == (1.0 if each.contender.startswith("ours") else None)


@pytest.mark.slow
@RECORDS
@pytest.mark.parametrize("shares", ["even", "two samples", "uneven"])
def test_ours_moves_least(records: list[Record], shares: str) -> None:
    name = f"exchange, {shares}, 2 ranks"
    of = {each.contender: each for each in records if each.benchmark == name}
    assert (of["ours"].passes, of["ours, k and q packed"].passes) == (4, 2)
    assert min(each.passes for each in of.values()) == 2
    if IO.is_file():
        headers = 1000  # bytes, of a dozen messages
        least = min(each.sent_bytes for each in of.values())
        assert 0 < of["ours"].sent_bytes <= least + headers


def test_what_is_measured_is_written_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    race = Comparison("race", {}, "float32", [Contender("fast", lambda: None)], 1)
    monkeypatch.setattr(
        exchange, "measured_by", lambda ranks, *_: measure(race, 1, this_machine(), ranks)
    )
    out = tmp_path / "out.jsonl"
    main(["--ranks", "2", "3", "--out", str(out)])
    assert [each.threads for each in read_records(out)] == [2, 3]
    assert "| race | 3 | fast |" in capsys.readouterr().out
    main(["--ranks", "5", "--out", str(out), "--dry-run"])
    assert len(read_records(out)) == 2
