"""The policies that the judge compares: each method at strengths of 3 to 10 full steps' cost.

By subject: the base's 50 steps with guidance, where costs are in steps of two passes, and the
distilled model's 20. A model of which each sample takes minutes gets a short list.
"""

from collections.abc import Callable

from ..cache.policies import POLICIES
from ..cache.row import Row
from .subject import UNCACHED

STEP_LISTS_20 = {
    10: "0,1,2,5,9,11,13,15,17,19",
    8: "0,1,2,5,9,13,17,19",
    6: "0,1,2,8,13,19",
    5: "0,1,6,11,16",
    4: "0,1,7,13",
    3: "0,1,10",
}

_ON_LISTS = ("reuse", "taylor", "hermite", "disca")

CONTENDERS: dict[str, tuple[str, ...]] = {
    "base": (
        *(f"reuse:interval={n}" for n in (5, 6, 8, 10, 12, 16)),
        *(f"{name}:interval={n}" for name in ("taylor", "hermite") for n in (5, 6, 8, 12)),
    ),
    "distilled": tuple(
        f"{name}:step_list={steps}" for name in _ON_LISTS for steps in STEP_LISTS_20.values()
    ),
}

QUICK: dict[str, tuple[str, ...]] = {
    "base": ("reuse:interval=5", "reuse:interval=12", "taylor:interval=8"),
    "distilled": tuple(
        f"{name}:step_list={STEP_LISTS_20[count]}"
        for name in ("reuse", "disca")
        for count in (8, 5)
    ),
}

FULL_STEPS = 8  # of methods at an interval, in the short list

Check = Callable[[str], None]
"""Raises ValueError for a policy that a model cannot run, MemoryError where it does not fit."""


def short_list(steps: int, check: Check, is_quick: bool) -> tuple[list[str], dict[str, str]]:
    """Each method once or twice on a model at `steps` steps, and why some are left out, by name.

    A method with presets gets the first and the last that the model takes, one that follows a step
    list or an interval about `FULL_STEPS` full steps. With `is_quick` only the latter.
    """
    chosen: list[str] = []
    left_out: dict[str, str] = {}
    for name, row in POLICIES.items():
        if name == UNCACHED or (is_quick and not row.follows_list):
            continue
        faults = {policy: _fault(policy, check) for policy in _settings(name, row, steps)}
        fitting = [policy for policy, fault in faults.items() if fault is None]
        presets = [policy for policy in fitting if policy != name]
        chosen += [presets[0], presets[-1]][: len(presets)] if presets else fitting
        if not fitting:
            left_out[name] = next(iter(faults.values()))
    return chosen, left_out


def _settings(name: str, row: Row, steps: int) -> list[str]:
    if row.follows_list and "interval" in row.rule_types:
        return [f"{name}:interval={max(2, round(steps / FULL_STEPS))}"]
    return [*(f"{name}:{preset}" for preset in row.presets), name]


def _fault(policy: str, check: Check) -> str | None:
    try:
        check(policy)
    except (ValueError, MemoryError) as error:
        return str(error)
    return None
