"""The schedule flags as noise levels and a policy: flags over a preset over the default."""

import argparse

from ..cache.policies import needs_step_list, read_policy
from ..cache.rules.listed import check_indices
from ..config import DiTConfig
from ..preset_file import read_preset
from ..schedule import Preset, Schedule, from_timesteps, get_preset, shifted
from ..tiny.config import SCHEDULE as TINY_SCHEDULE
from ..tiny.config import takes_tiny_prompts


def check_schedule_arguments(args: argparse.Namespace) -> None:
    """Raise ValueError for flags that no model could be sampled with."""
    if args.policy is not None:
        read_policy(args.policy)
    if args.preset is not None:
        read_preset(args.preset)
    levels = [flag for flag in ("sigmas", "timesteps") if getattr(args, flag) is not None]
    if len(levels) > 1 or (levels and (args.steps is not None or args.shift is not None)):
        raise ValueError("give one of --sigmas, --timesteps, or --steps and --shift")
    if args.step_list is not None:
        check_indices("step_list", args.step_list)


def choose_policy(args: argparse.Namespace, has_predictor: bool) -> str:
    """Policy that is named; else `disca` where a list, a preset or a predictor asks for it."""
    if args.policy is not None:
        return args.policy
    named = None if args.preset is None else read_preset(args.preset)
    if named is not None and named.policy is not None:
        return named.policy
    is_cached = has_predictor if named is None else named.step_list is not None
    return "disca" if is_cached or args.step_list is not None else "full"


def choose_schedule(args: argparse.Namespace, default: Preset, policy: str) -> Preset:
    """Noise levels that the flags ask for, and the step list that `policy` is to follow.

    `default` is the model's own. ValueError where a step list is missing or does not fit.
    """
    base = default if args.preset is None else read_preset(args.preset)
    levels = _levels(args, base)
    if not needs_step_list(policy):
        if args.step_list is not None and ":" in policy:  # "full" is often one of several
            raise ValueError(f"policy {policy} says which steps are full; leave --step-list out")
        return Preset(levels, args.step_list, base.shift)
    if args.step_list is not None:
        return Preset(levels, args.step_list, base.shift)
    if levels.steps != base.steps:
        raise ValueError(
            f"steps {levels.steps} needs a step list: the default one is for {base.steps} steps; "
            "give --step-list, such as 0,1,2,5, or --policy full"
        )
    if base.step_list is None:
        whose = "this model's default" if args.preset is None else f"preset {args.preset}"
        raise ValueError(
            f"policy {policy} needs a step list: {whose} has every step full; "
            "give --step-list, such as 0,1,2,5, or a --preset that has one"
        )
    return Preset(levels, base.step_list, base.shift)


def _levels(args: argparse.Namespace, base: Preset) -> Schedule:
    if args.sigmas is not None:
        return Schedule(args.sigmas)
    if args.timesteps is not None:
        return from_timesteps(args.timesteps)
    steps = base.steps if args.steps is None else args.steps
    return shifted(steps, base.shift if args.shift is None else args.shift)


def default_schedule(config: DiTConfig) -> Preset:
    """Schedule that a model's authors sample with; its step list is for policy disca."""
    if not config.meanflow:
        return TINY_SCHEDULE if takes_tiny_prompts(config) else get_preset("full-50")
    return get_preset(config.traits.preset)
