"""The flag `--calibration`: a file, `none`, or what lies beside the model or in the cache."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..cache.calibration import Calibrations, Subject
    from ..cache.method import Parts
    from ..cache.policy import Policy
    from ..config import DiTConfig
    from ..pipeline.pipeline import Pipeline
    from ..pipeline.request import Request
    from ..schedule import Preset, Schedule


def add_calibration_argument(group: argparse._ActionsContainer) -> None:
    """Add --calibration."""
    group.add_argument(
        "--calibration",
        metavar="FILE",
        help="tables that disca-rt calibrate fitted, for policies that need some; by default one "
        "that fits, beside the model or in the user's cache folder; none: no table",
    )


def check_calibration(args: argparse.Namespace) -> None:
    """Raise ValueError for a file that is no calibration, or a policy that takes nothing of it.

    What is named is used or refused: where options are given, or the file lacks the policy's table,
    it is to be left out.
    """
    from ..cache.policies import takes_calibration
    from ..calibration.places import NONE

    if args.calibration in (None, NONE):
        return
    from ..cache.method import sketched
    from ..cache.policies import fitted_options
    from ..calibration.file import read_calibration

    found = read_calibration(Path(args.calibration))
    if args.policy is None or not takes_calibration(args.policy):
        raise ValueError(
            f"policy {args.policy or 'of the schedule'} takes nothing from a calibration; leave "
            "--calibration out"
        )
    parts = sketched(found.subject.model)._replace(calibration=found)
    if not fitted_options(args.policy, parts):
        raise ValueError(
            f"policy {args.policy} takes nothing from {found.source}, which has "
            f"{', '.join(sorted(found.tables)) or 'no tables'}; calibrate with more (disca-rt "
            "calibrate), or leave --calibration out"
        )


def choose_calibrations(args: argparse.Namespace, *beside: Path) -> "Calibrations | None":
    """The calibration that is named, or those beside models in folders `beside`, and the user's."""
    from ..calibration.places import choose

    return choose(args.calibration, *beside)


def folders_beside(args: argparse.Namespace) -> list[Path]:
    """The folders of the models that the flags name, as far as they are on this machine.

    That of the embedded model where they name none, or its sizes.
    """
    from ..tiny.runtime import SHIPPED

    flags = (getattr(args, name, None) for name in ("dit", "model"))
    named = [Path(each) for each in flags if each is not None]
    if not named or named == [Path("tiny")]:
        return [SHIPPED]
    return [each if each.is_dir() else each.parent for each in named if each.exists()]


def tell_calibration(runtime: "Pipeline", request: "Request") -> None:
    """Say which options of a request's policy a calibration gives, or why the nearest does not."""
    from ..cache.policies import fitted_options, takes_calibration

    source = runtime.calibration
    if source is None or not takes_calibration(request.policy):
        return
    subject = runtime.subject(request)
    fitting, nearest = source.fitting(subject), source.nearest(subject)
    parts = runtime.parts._replace(calibration=fitting or nearest)
    if not (options := ", ".join(fitted_options(request.policy, parts))):
        return
    if fitting is not None:
        print(f"policy {request.policy}: {options} of {fitting.source}")
    else:
        print(f"policy {request.policy} goes without {options}: {source.why_not(subject)}")


def resolve_sketch(
    args: argparse.Namespace,
    preset: "Preset",
    policy: str,
    config: "DiTConfig",
    latents: tuple[int, int, int],
) -> "tuple[Schedule, Policy]":
    """Noise levels and policy of a sample that is counted, not run; see `sketched_with`."""
    from ..cache.calibration import explained
    from ..cache.policies import resolve, takes_calibration

    found = choose_calibrations(args, *folders_beside(args))
    subject = sketched_subject(config, latents, preset)
    parts = sketched_with(args, policy, subject)
    if found is None or not takes_calibration(policy):
        return resolve(preset, policy, parts)
    with explained(found, subject):
        return resolve(preset, policy, parts)


def sketched_with(args: argparse.Namespace, policy: str, subject: "Subject") -> "Parts":
    """Parts of a model that is not there; with the calibration that `policy` takes some of."""
    from ..cache.method import sketched
    from ..cache.policies import takes_calibration

    parts, found = sketched(subject.model), choose_calibrations(args, *folders_beside(args))
    if found is None or not takes_calibration(policy):
        return parts
    return parts._replace(calibration=found.fitting(subject))


def sketched_subject(
    config: "DiTConfig", latents: tuple[int, int, int], preset: "Preset | None" = None
) -> "Subject":
    """The facts that are known of a sample of a model that is not there.

    The embedded model that ships is a distilled one of `TINY`'s sizes.
    """
    from ..cache.calibration import Subject
    from ..tiny.config import TINY

    if config == TINY:
        config = replace(config, guidance_embed=True, meanflow=True)
    return Subject(config, latents=latents, sigmas=preset and preset.schedule.sigmas)
