"""Which policy and schedule the flags of a command ask for."""

import argparse

import pytest

from disca_rt.commands.arguments import add_schedule_arguments
from disca_rt.commands.schedules import choose_policy


@pytest.mark.parametrize(
    ("flags", "without", "with_predictor"),
    [
        ("", "full", "disca"),
        ("--steps 12", "full", "disca"),
        ("--preset disca-n4", "disca", "disca"),
        ("--preset full-50", "full", "full"),
        ("--step-list 0,2", "disca", "disca"),
        ("--preset full-50 --step-list 0,2", "disca", "disca"),
        ("--policy taylor --preset full-50", "taylor", "taylor"),
        ("--policy full --step-list 0,2", "full", "full"),
    ],
)
def test_a_list_a_preset_or_a_predictor_asks_for_disca(
    flags: str, without: str, with_predictor: str
) -> None:
    parser = argparse.ArgumentParser()
    add_schedule_arguments(parser)
    args = parser.parse_args(flags.split())
    assert choose_policy(args, has_predictor=False) == without
    assert choose_policy(args, has_predictor=True) == with_predictor
