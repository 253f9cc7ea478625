"""The model of issue time: what is counted in machine code, and what follows for a launch."""

from typing import Any

import pytest
import torch

from bench.sass.launches import Launch
from bench.sass.model import ANY, H200, IN_FLIGHT, SPECIAL, estimate, parse

CODE = """\
LDG.E.128 R4, desc[UR4][R2.64] ;
NOP ;
FADD R4, R4, 1 ;
@P0 BRA 0x60 ;
MUFU.RCP R5, R4 ;
FADD R5, R5, 1 ;
STG.E.128 desc[UR4][R2.64], R4 ;
@P1 BRA 0x20 ;
EXIT ;
MUFU.EX2 R6, R6 ;
BRA 0xa0;"""


def launch(**options: int) -> Launch:
    made: dict[str, Any] = {"num_warps": 4, **options}
    return Launch("op", "some", torch.bfloat16, None, (), made, (1320, 2), 43_000_000)


def test_a_loop_counts_as_often_as_it_runs_and_what_follows_the_exit_never() -> None:
    code = parse(CODE)
    assert (len(code.once), len(code.loop)) == (2, 6)
    assert code.count(ANY, 8) == 2 + 6 * 8
    assert code.count(SPECIAL, 8) == 8


def test_code_without_a_loop_runs_once() -> None:
    code = parse("FADD R1, R1, 1 ;\n@P0 BRA 0x20 ;\nEXIT ;\nBRA 0x30;")
    assert (len(code.once), len(code.loop)) == (3, 0)


def test_two_loops_are_refused() -> None:
    with pytest.raises(ValueError, match="one loop in a kernel, got 2"):
        parse("BRA 0x0 ;\nBRA 0x10 ;\nEXIT ;")


def test_times_are_those_of_the_chip_s_units_and_of_the_bytes() -> None:
    found = estimate(launch(TURNS=8), CODE, registers=64)
    clocks = H200.multiprocessors * H200.clock_hz
    assert found.issue == pytest.approx(2640 * 4 * 50 / (4 * clocks))
    assert found.special == pytest.approx(2640 * 4 * 8 * 32 / (16 * clocks))
    assert found.memory == pytest.approx(1e-5)
    assert found.ratio == pytest.approx(found.issue / 1e-5)


def test_a_loop_over_columns_runs_by_its_blocks() -> None:
    over_columns = estimate(launch(C=3072, BLOCK_K=64), CODE, registers=64)
    assert over_columns.issue == estimate(launch(TURNS=48), CODE, registers=64).issue


def test_few_loads_under_way_and_a_last_wave_cost_time() -> None:
    """8 programs of 4 warps fit beside each other by 64 registers, 2 by 255."""
    many, few = (estimate(launch(), CODE, registers) for registers in (64, 255))
    assert (many.resident, few.resident) == (8, 2)
    assert few.in_flight * 4 == many.in_flight
    assert few.seconds() > few.memory + few.issue
    enough = many._replace(in_flight=IN_FLIGHT)
    full_waves = enough._replace(programs=2 * 8 * 132)
    assert full_waves.seconds() == pytest.approx(many.memory + many.issue)
    assert enough._replace(programs=17 * 132).seconds() > full_waves.seconds() * 1.3
