"""The estimate of a step in FP8: by hand for its parts, and what it is held to."""

import pytest

from bench.fp8_estimate import ATTENTION, H200, PLAIN, speedup, step_parts, sums
from disca_rt.models.fp8_table import COMPUTE, Fp8Table

TOKENS, HIDDEN = 64_144, 3_072


def test_parts_are_work_over_rates() -> None:
    plain, ours = (sums(step_parts(table, H200)) for table in (PLAIN, COMPUTE))
    attention = 4 * TOKENS**2 * HIDDEN
    assert plain["attention"] == pytest.approx(60 * attention / 695e12)
    assert ours["attention"] == pytest.approx(58 * attention / 1040e12 + 2 * attention / 695e12)
    products = 2 * TOKENS * HIDDEN**2 * 12 * 60
    assert plain["products"] == pytest.approx(products / 750e12, rel=0.02)
    fp8 = products * (58 / 1250e12 + 2 / 750e12) / 60
    assert ours["products"] == pytest.approx(fp8, rel=0.02)
    assert ours["ops on memory"] > plain["ops on memory"]


def test_a_step_in_fp8_is_estimated_at_1_45_of_one_in_bf16() -> None:
    assert speedup(COMPUTE) >= 1.45
    assert 1.3 < speedup(ATTENTION) < speedup(COMPUTE)
    assert speedup(Fp8Table((("*.attention", "16 bits"),))) < 1.2
    assert speedup(PLAIN) == 1
