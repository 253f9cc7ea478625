"""Options that a calibration gives: those left out, by the table that a part names."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from disca_rt.cache import policies
from disca_rt.cache.calibration import Calibration, Subject, Uncalibrated
from disca_rt.cache.method import Method, Parts, everywhere
from disca_rt.cache.policies import build_policy, tables_of
from disca_rt.cache.rules.listed import Listed
from disca_rt.cache.stand_ins.reuse import Reuse
from disca_rt.config import DiTConfig
from disca_rt.schedule import shifted

CONFIG = DiTConfig(hidden=48, heads=2, rope=(8, 8, 8))


@dataclass(frozen=True)
class Fitted(Listed):
    """A list that a table has, and an option that it has not."""

    fitted_in: ClassVar[str] = "listed"
    fitted: ClassVar[tuple[str, ...]] = ("step_list",)
    threshold: float = 0.5


@pytest.fixture(autouse=True)
def row(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Method((Fitted,), everywhere(Reuse), presets={"two": {"step_list": (0, 2)}})
    monkeypatch.setitem(policies.POLICIES, "fitted", row)


def parts(**options: object) -> Parts:
    tables = {"listed": options, "reuse": {"form": "delta"}}
    return Parts(CONFIG, calibration=Calibration(Subject(CONFIG), tables, "file.json"))


def test_a_table_gives_the_options_that_are_left_out() -> None:
    policy = build_policy("fitted:threshold=0.1", parts(step_list=(0, 3), unknown=1))
    assert policy.rule == Fitted((0, 3), 0.1)
    assert policy.slots[0].stand_in == Reuse(), "a part that names no table takes nothing"


@pytest.mark.parametrize(
    ("text", "steps"), [("fitted:step_list=0,1", (0, 1)), ("fitted:two", (0, 2))]
)
def test_options_and_presets_of_the_user_win(text: str, steps: tuple[int, ...]) -> None:
    assert build_policy(text, parts(step_list=(0, 3))).rule.step_list == steps


def test_what_a_calibration_would_give_is_asked_for_by_its_command() -> None:
    for each in (Parts(CONFIG), parts(other=1)):
        with pytest.raises(Uncalibrated, match=r"step_list.*disca-rt calibrate"):
            build_policy("fitted", each)
    with pytest.raises(ValueError, match="needs step_list") as raised:
        build_policy("reuse", Parts(CONFIG))
    assert not isinstance(raised.value, Uncalibrated)


def test_the_tables_of_a_policy_are_those_of_its_parts() -> None:
    assert tables_of("fitted+taylor") == {"listed"}
    assert tables_of("reuse") == set()


SUBJECT = Subject(CONFIG, "ab12", (3, 8, 8), shifted(8, 5.0).sigmas, (6.0, None))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (Subject(DiTConfig()), "hidden 48, not 3072; heads 2, not 24"),
        (Subject(CONFIG, "cd34"), "weights ab12, not cd34"),
        (Subject(CONFIG, latents=(3, 8, 16)), "latents 3x8x8, not 3x8x16"),
        (Subject(CONFIG, sigmas=shifted(9, 5.0).sigmas), "steps 8, not 9"),
        (Subject(CONFIG, sigmas=shifted(8, 7.0).sigmas), "shift 5, not 7"),
        (Subject(CONFIG, sigmas=(*[1.0 - i / 9 for i in range(8)], 0.0)), "sigmas with "),
        (Subject(CONFIG, scales=(6.0, 3.0)), "passes 1, not 2; scales 6xnone, not 6x3"),
    ],
)
def test_a_refusal_says_which_fact_differs_and_the_way_out(other: Subject, reason: str) -> None:
    calibration = Calibration(SUBJECT, {}, "file.json")
    with pytest.raises(ValueError, match="disca-rt calibrate") as raised:
        calibration.fitting(other)
    assert f"file.json does not fit this sample: it is of {reason}" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_facts_that_are_not_known_are_not_compared() -> None:
    calibration = Calibration(SUBJECT, {})
    assert calibration.fitting(SUBJECT) is calibration
    assert calibration.fitting(Subject(CONFIG)) is calibration
