"""From the schedule flags to a policy and a `Schedule`: explicit flags over a preset over the
default.
"""

import argparse

from ..config import DiTConfig
from ..schedule import Schedule, full_schedule, get_preset
from ..tiny.config import SCHEDULE as TINY_SCHEDULE
from ..tiny.config import takes_tiny_prompts


def choose_policy(args: argparse.Namespace, has_predictor: bool) -> str:
    """The one that is named; else `disca` where a list, a preset or a predictor asks for it."""
    if args.policy is not None:
        return args.policy
    named = None if args.preset is None else get_preset(args.preset)
    is_cached = has_predictor if named is None else named.full_steps < named.steps
    return "disca" if is_cached or args.step_list is not None else "full"


def choose_schedule(args: argparse.Namespace, config: DiTConfig, policy: str) -> Schedule:
    """The schedule that the flags ask for. ValueError where a step list is missing or illegal."""
    named = None if args.preset is None else get_preset(args.preset)
    base = named or default_schedule(config)
    steps = base.steps if args.steps is None else args.steps
    shift = base.shift if args.shift is None else args.shift
    if args.step_list is not None:  # checked even where the policy has no use for it
        asked = Schedule(steps, shift, args.step_list)
        return full_schedule(steps, shift) if policy == "full" else asked
    if policy == "full":
        return full_schedule(steps, shift)
    full_schedule(steps, shift)  # illegal steps are refused before a missing list is
    if steps != base.steps:
        raise ValueError(
            f"steps {steps} needs a step list: the default one is for {base.steps} steps; "
            "give --step-list, such as 0,1,2,5, or --policy full"
        )
    if base.full_steps == base.steps:
        whose = "this model's default" if named is None else f"preset {args.preset}"
        raise ValueError(
            f"policy {policy} needs a step list: {whose} has every step full; "
            "give --step-list, such as 0,1,2,5, or a --preset that has one"
        )
    return Schedule(steps, shift, base.step_list)


def default_schedule(config: DiTConfig) -> Schedule:
    """What a model's authors sample with; its step list is for policy disca."""
    if not config.meanflow:
        return TINY_SCHEDULE if takes_tiny_prompts(config) else get_preset("full-50")
    return get_preset(config.traits.preset)
