"""Nothing grows faster than it must, in counts that no neighbour changes; fits; page and trial."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench import growth, growth_page
from bench.growth_fit import exponent, larger_half, two_parts
from bench.growth_page import MOST, PAGE
from bench.growth_record import curves
from bench.growth_work import AXES, CONFIG, CPU, TEXT, Observed, observe
from disca_rt.measure.random_models import random_runtime
from disca_rt.measure.record import read_records
from disca_rt.models.dit import DiT

ROOT = Path(__file__).parents[2]
# Sizes whose growth is past what is bounded: from 16 steps on text is refined of as many at once.
TOLERANCE = 0.01
LARGE = {"tokens": (512, 1024), "steps": (16, 32), "batch": (2, 4)}


@pytest.fixture(scope="module")
def dit() -> DiT:
    return random_runtime(CONFIG, CPU, torch.float32, "native").dit


@pytest.mark.parametrize("axis", AXES)
def test_memory_and_the_host_s_work_grow_no_faster_than_they_must(dit: DiT, axis: str) -> None:
    def seen(size: int) -> Observed:
        run = AXES[axis].ours(dit, AXES[axis].amount(size))
        with torch.inference_mode():
            return observe(run)

    sizes, most = LARGE[axis], MOST[axis]
    peaks, operators = zip(*map(seen, sizes), strict=True)
    # The peak is that of image tokens, beside which the prompt's are none.
    grown = [size - TEXT for size in sizes] if axis == "tokens" else sizes
    assert exponent(grown, peaks) <= most.memory + TOLERANCE
    assert exponent(sizes, operators) <= most.operators + TOLERANCE


@pytest.mark.parametrize(
    ("cost", "linear", "quadratic"),
    [
        (lambda n: 3 * n + 0.01 * n * n, 3, 0.01),
        (lambda n: 3 * n, 3, 0),
        (lambda n: n**1.5 + n**0.5, None, None),
    ],
)
def test_the_parts_of_a_cost(
    cost: Callable[[int], float], linear: float | None, quadratic: float | None
) -> None:
    sizes = 100, 200, 400, 800
    parts = two_parts(sizes, [cost(n) for n in sizes])
    assert min(parts) >= 0
    if linear is not None:
        assert parts == pytest.approx((linear, quadratic), abs=1e-9)
        assert parts.quadratic_share(800) == pytest.approx(quadratic * 800 / (3 + quadratic * 800))


def test_exponents_are_those_of_the_larger_half() -> None:
    sizes = 1, 2, 4, 8, 16, 32
    costs = [5, 5, 5, *(n**2 for n in sizes[3:])]
    half = larger_half(sizes)
    assert exponent(sizes[half], costs[half]) == pytest.approx(2)
    assert larger_half(sizes[:2]) == slice(-3, None)


def test_the_page_is_that_of_its_lines() -> None:
    source = re.search(r"bench/results/growth-\S+\.jsonl", PAGE.read_text())[0]
    assert growth_page.page(read_records(ROOT / source), source) == PAGE.read_text()


@pytest.mark.slow
def test_a_trial_is_written_and_not_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("diffusers")
    out = tmp_path / "growth.jsonl"
    command = ["--quick", "--only", "batch", "--samples", "1", "--out", str(out)]
    growth.main(command)
    found = curves(read_records(out))
    assert [(curve.axis, curve.who) for curve in found] == [
        ("batch", "diffusers"),
        ("batch", "ours"),
    ]
    assert all(curve.sizes == [1, 2, 4] and min(curve.peaks) > 0 for curve in found)
    before = out.read_bytes()
    growth.main(command)
    assert out.read_bytes() == before
    assert f"batch: already in {out}" in capsys.readouterr().out
