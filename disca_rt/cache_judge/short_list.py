"""The policies that a big model is judged on, each sample of which takes minutes: a short list."""

from collections.abc import Callable

from ..cache.method import Method
from ..cache.policies import POLICIES
from .subject import UNCACHED

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
    for name, method in POLICIES.items():
        if name == UNCACHED or (is_quick and not method.follows_list):
            continue
        faults = {policy: _fault(policy, check) for policy in _settings(name, method, steps)}
        fitting = [policy for policy, fault in faults.items() if fault is None]
        presets = [policy for policy in fitting if policy != name]
        chosen += [presets[0], presets[-1]][: len(presets)] if presets else fitting
        if not fitting:
            left_out[name] = next(iter(faults.values()))
    return chosen, left_out


def _settings(name: str, method: Method, steps: int) -> list[str]:
    if method.follows_list and "interval" in method.rule_types:
        return [f"{name}:interval={max(2, round(steps / FULL_STEPS))}"]
    return [*(f"{name}:{preset}" for preset in method.presets), name]


def _fault(policy: str, check: Check) -> str | None:
    try:
        check(policy)
    except (ValueError, MemoryError) as error:
        return str(error)
    return None
