"""Arithmetic and order of the harness, with contenders and clocks that take no time."""

import dataclasses
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from disca_rt.measure.harness import (
    Comparison,
    Contender,
    Elapsed,
    Interrupted,
    Spread,
    host_timer,
    interleave,
    measure,
    spread,
    spread_of_ratios,
)
from disca_rt.measure.machine import Machine, load_average, this_machine
from disca_rt.measure.record import Record, file_stem, read_records, write_records
from disca_rt.measure.table import HEADER, main, markdown

MACHINE = Machine("CPU: abacus", 2, "default", "3.10.0", "2.11.0", None, "0.1.0")


def comparison(log: list[str]) -> Comparison:
    def contender(name: str, flops: int) -> Contender:
        goal = 0.5 if name == "fast" else None
        note = f"note on {name}"
        moved = {"minimum_bytes": 2 * flops, "sent_bytes": 3_000_000, "passes": 2.5}
        return Contender(name, lambda: log.append(name), flops, note, goal, **moved)

    shape = {"batch": 1, "latents": [12, 5, 12, 16]}
    contenders = [contender("slow", 4000), contender("fast", 1000)]
    return Comparison("race", shape, "float32", contenders, samples=7)


def records(samples: int = 3, threads: int = 2) -> list[Record]:
    return measure(comparison([]), samples, MACHINE, threads)


def ticks(*deltas: float) -> Callable[[], float]:
    """Clock whose pairs of readings are `deltas` apart."""
    readings = (
        reading for start, d in zip(count(0, 100), deltas) for reading in (start, start + d)
    )
    return lambda: next(readings)


def test_contenders_take_turns_after_one_warm_up_each() -> None:
    log: list[str] = []
    measure(comparison(log), 3, MACHINE, 2)
    assert log == ["slow", "fast"] * 4


def test_a_contender_that_fails_is_told_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise RuntimeError("no C++ compiler\nin PATH")

    race, broken = comparison([]), Contender("broken", fail)
    beside = dataclasses.replace(race, contenders=[*race.contenders, broken])
    assert [each.contender for each in measure(beside, 2, MACHINE, 2)] == ["slow", "fast"]
    assert capsys.readouterr().out == "race: no broken (RuntimeError: no C++ compiler)\n"
    without_baseline = dataclasses.replace(race, contenders=[broken, *race.contenders])
    assert measure(without_baseline, 2, MACHINE, 2) == []


def test_samples_are_clock_differences_of_the_timed_rounds() -> None:
    wall, cpu = ticks(8.0, 2.0, 6.0, 3.0), ticks(4.0, 1.0, 3.0, 1.5)
    taken: dict[str, list[Elapsed]] = {"slow": [], "fast": []}
    interleave(comparison([]).contenders, 2, host_timer(wall, cpu), taken)
    assert taken == {
        "slow": [Elapsed(8.0, 4.0), Elapsed(6.0, 3.0)],
        "fast": [Elapsed(2.0, 1.0), Elapsed(3.0, 1.5)],
    }


def test_spread_is_percentiles() -> None:
    assert spread([4.0]) == Spread(4.0, 4.0, 4.0)
    assert spread([3.0, 1.0, 2.0]).median == 2.0
    assert spread([2.0, 1.0]).median == 1.5
    assert spread([0.3, 0.1, 0.9, 0.4, 0.2]) == pytest.approx(Spread(0.12, 0.3, 0.8))
    assert spread([float(i) for i in range(101)]) == Spread(5.0, 50.0, 95.0)


def test_a_ratio_is_taken_within_its_round() -> None:
    # A slow spell in the last round: the ratio of the medians would be 2/10.
    assert spread_of_ratios([1.0, 2.0, 50.0], [2.0, 10.0, 100.0]).median == 0.5


def test_unequal_numbers_of_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        spread_of_ratios([1.0], [1.0, 2.0])


def test_a_record_is_consistent_with_its_samples() -> None:
    slow, fast = records(samples=5)
    assert (slow.contender, slow.baseline, fast.baseline) == ("slow", "slow", "slow")
    assert (slow.ratio, slow.cpu_ratio, slow.flop_ratio) == (1.0, 1.0, 1.0)
    assert (slow.goal, fast.goal, fast.flop_ratio) == (None, 0.5, 0.25)
    assert fast.samples == len(fast.seconds) == len(fast.cpu_seconds) == 5
    assert fast.median_s == spread(fast.seconds).median
    assert fast.gflops_per_s == pytest.approx(1000 / fast.median_s / 1e9)
    assert fast.gb_per_s == pytest.approx(2000 / fast.median_s / 1e9)
    assert fast.ratio == spread_of_ratios(fast.seconds, slow.seconds).median
    assert (fast.warmup, fast.otherwise_idle, fast.device) == (1, "unknown", "CPU: abacus")


def test_a_rerun_replaces_its_lines_and_only_them(tmp_path: Path) -> None:
    out = tmp_path / "new" / "cpu.jsonl"
    one, two, again = records(threads=1), records(threads=2), records(threads=1)
    write_records(out, one)
    write_records(out, two)
    assert read_records(out) == [*one, *two]
    write_records(out, again)
    assert read_records(out) == [*two, *again]
    others = [
        dataclasses.replace(again[0], **other)
        for other in ({"weights": "random"}, {"ranks": 2}, {"shape": {"attention": "math"}})
    ]
    for other in others:
        write_records(out, [other])
    assert read_records(out) == [*two, *again, *others]
    assert [path.name for path in out.parent.iterdir()] == ["cpu.jsonl"]


def test_the_machine_is_described() -> None:
    machine = this_machine()
    assert machine.device.startswith("CPU: ")
    assert machine.device != "CPU: "
    assert machine.cpus >= 1
    load = load_average()
    assert load is None or load >= 0


def test_the_table_shows_every_record() -> None:
    slow, fast = records()
    fast = dataclasses.replace(
        fast, median_s=0.0125, ratio=0.25, ratio_p5=0.2, ratio_p95=0.3, cpu_ratio=0.26
    )
    lines = markdown([slow, fast]).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4
    assert {row.count("|") for row in rows} == {len(HEADER)}, "without MFU, which none has"
    for shown in ("12.5 ms", "**0.250**", "0.200 – 0.300", "0.260", "≤ 0.5", "race", "fast"):
        assert shown in rows[3]
    assert "| 3.00 MB | 2.5 |" in rows[3]
    assert "1 (baseline)" in rows[2]
    assert "CPU: abacus" in lines[0]
    assert "diffusers absent" in lines[0]
    assert "- race: batch 1, latents [12, 5, 12, 16], float32, 3 samples." in lines
    assert "- race, fast: note on fast." in lines


def test_the_table_leaves_out_columns_without_anything() -> None:
    alone = [dataclasses.replace(each, sent_bytes=0, minimum_bytes=0) for each in records()]
    header = next(line for line in markdown(alone).splitlines() if line.startswith("|"))
    assert "passes over memory" in header
    assert "sent by a rank" not in header
    assert "GB/s" not in header


def test_outputs_that_agree_in_every_bit_are_said_to() -> None:
    for difference, said in ((0.0, "bit by bit"), (1e-7, "to 1e-5")):
        compared = [dataclasses.replace(each, relative_difference=difference) for each in records()]
        assert f"3 samples; outputs agree {said}." in markdown(compared)


def test_the_table_is_printed_from_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = records()
    write_records(tmp_path / "cpu.jsonl", measured)
    main([str(tmp_path / "cpu.jsonl")])
    assert capsys.readouterr().out == markdown(measured)


def test_an_interruption_keeps_the_rounds_that_were_over() -> None:
    log: list[str] = []
    race = comparison(log)

    def interrupted() -> None:
        log.append("fast")
        if log.count("fast") == 4:  # the third sample, after one warm-up
            raise KeyboardInterrupt

    race = dataclasses.replace(
        race, contenders=[race.contenders[0], Contender("fast", interrupted)]
    )
    with pytest.raises(Interrupted) as caught:
        measure(race, 7, MACHINE, 2)
    assert [each.samples for each in caught.value.records] == [2, 2]
    assert [len(each.seconds) for each in caught.value.records] == [2, 2]


def test_an_interruption_before_the_first_round_is_over_has_no_records() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    short = Contender("only", interrupt, warm_up=lambda: None)
    with pytest.raises(Interrupted) as caught:
        measure(Comparison("race", {}, "float32", [short], 1), 1, MACHINE, 2)
    assert caught.value.records == []


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    write_records(broken, records()[:1])
    with broken.open("a") as lines:
        lines.write("{}\n")
    with pytest.raises(ValueError, match="line 2 is no result of a benchmark"):
        read_records(broken)


def test_a_file_is_named_after_its_device() -> None:
    assert file_stem("GPU: NVIDIA H200") == "nvidia-h200"
    assert file_stem("CPU: AMD EPYC 7B13") == "cpu"


def test_the_table_says_what_models_have_and_ops_have_not() -> None:
    slow, fast = records()
    stages = {"full steps": [3.0, 1.0, 2.0], "decode": [1.0, 1.0, 2.0]}
    memory = {"weights": 26_300_000_000, "cache": 400_000_000}
    told = dataclasses.replace(
        slow, mfu=0.8765, weights="random", ranks=2, stages=stages, memory=memory, busy=0.5
    )
    page = markdown([told, fast])
    lines = page.splitlines()
    assert "| MFU |" in page
    assert "| 87.6% |" in page
    assert "| race, slow | median | p5 – p95 | share |" in lines
    # Shares of each sample: 3/4, 1/2 and 2/4.
    assert "| full steps | 2,000.0 ms | 1,100.0 ms – 2,900.0 ms | 50.0% |" in lines
    peak = "- race, slow: peak memory 26.7 GB (weights 26.3 GB, cache 400.0 MB)"
    assert f"{peak}; device busy 50.0% of the time." in lines
    shape = "batch 1, latents [12, 5, 12, 16], float32, random weights, 2 ranks, 3 samples"
    assert f"- race: {shape}." in lines
    assert "no decode" not in page
    latents = dataclasses.replace(told, stages={"full steps": stages["full steps"]})
    assert "- race: no decode, as no VAE of this model is here." in markdown([latents]).splitlines()
