"""`disca-rt flops`: our count of the work, for a size, a schedule and a policy."""

import argparse
from typing import TYPE_CHECKING, NamedTuple

from .arguments import add_model_arguments, add_schedule_arguments, given
from .calibrations import add_calibration_argument, check_calibration

if TYPE_CHECKING:
    from ..config import DiTConfig
    from ..schedule import Preset


def add_parser(subparsers: argparse._SubParsersAction, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="count the floating-point operations of a sample",
        description="Without a schedule it shows the DisCa paper's Table 4 in our count.",
    )
    add_model_arguments(parser)
    parser.add_argument("--predictor-depth", type=int, default=2, help="blocks; default 2")
    parser.add_argument(
        "--cfg", action="store_true", help="two passes per step: classifier-free guidance"
    )
    add_schedule_arguments(parser)
    add_calibration_argument(parser)


def run(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..config import predictor_config
    from ..work.flops import image_tokens, step_flops
    from .model_size import model_size

    dit, latent_shape, text_tokens = model_size(args)
    depth = args.predictor_depth
    if depth < 1:
        raise ValueError(f"--predictor-depth must be at least 1, got {depth}")
    step = step_flops(dit, predictor_config(dit, depth), latent_shape, text_tokens)
    unit, scale = ("TFLOP", 1e12) if step.full > 1e11 else ("GFLOP", 1e9)
    counted = [_counted(args, case, dit, latent_shape, text_tokens) for case in _cases(args, dit)]
    img = image_tokens(dit, latent_shape)
    table = Table(
        "sample", "full", "predicted", unit, "speed-up", title=f"{args.model}, {img} image tokens"
    )
    for row in counted:
        table.add_row(
            row.name,
            f"{row.full} x {row.passes}",
            f"{row.predicted} x {row.passes}",
            f"{row.flops / scale:,.0f}",
            f"{counted[0].flops / row.flops:.2f}x",
        )
    console = Console()
    console.print(table)
    whole, last = step.full, counted[-1]
    cheap, what = step.predicted, "one predicted step"
    if last.policy != "disca":
        whole *= last.passes
        cheap, what = last.least, f"the cheapest of {last.policy}"
    share = f"{cheap / whole:.2%}" if cheap > whole / 1000 else f"{cheap / whole:.1g}"
    before, steps = counted[-2], last.full + last.predicted
    is_same = (before.policy, before.full, before.passes) == ("full", steps, last.passes)
    if is_same and last.policy != "full":
        ratio = before.flops / last.flops
        console.print(f"{last.name}: {ratio:.2f}x against its {steps} steps in full")
    said = f", {what} {cheap / scale:,.2f} {unit} ({share})" * (cheap < whole)
    console.print(f"one full step {whole / scale:,.2f} {unit}{said}", highlight=False)


class Case(NamedTuple):
    """A sample to count; `passes` is 2 under classifier-free guidance."""

    name: str
    preset: "Preset"
    passes: int
    policy: str = "disca"


class Counted(NamedTuple):
    """A row of the table: steps of both kinds, in `passes` each, all FLOPs, the cheapest step's."""

    name: str
    policy: str
    passes: int
    full: int
    predicted: int
    flops: int
    least: int


def _counted(
    args: argparse.Namespace,
    case: Case,
    dit: "DiTConfig",
    latent_shape: tuple[int, int, int, int],
    text_tokens: int,
) -> Counted:
    from ..cache.plan import FULL, Setting
    from ..work.flops import sample_flops
    from .calibrations import resolve_sketch

    schedule, policy = resolve_sketch(args, case.preset, case.policy, dit, latent_shape[1:])
    plans = policy.known_plans(Setting(tuple(schedule), case.passes, len(policy.slots)))
    if plans is None:
        raise ValueError(
            f"policy {case.policy} decides by what it measures, so that its steps are not known "
            "before a run; count another one, such as full, or the steps that ran: disca-rt bench"
        )
    text = (text_tokens,) * case.passes
    flops = [sample_flops(policy, (plan,), dit, latent_shape, text) for plan in plans]
    full = sum(plan.label == FULL for plan in plans)
    steps = case.passes, full, len(plans) - full
    return Counted(case.name, policy.name, *steps, sum(flops), min(flops))


def _cases(args: argparse.Namespace, dit: "DiTConfig") -> list[Case]:
    """The baseline, 50 full steps twice each; then what was asked for, or the paper's rows.

    Before a policy that was asked for come its steps in full.
    """
    from ..schedule import PRESETS, preset
    from .schedules import (
        check_schedule_arguments,
        choose_policy,
        choose_schedule,
        default_schedule,
    )

    passes = 2 if args.cfg else 1
    check_schedule_arguments(args)
    check_calibration(args)
    flags = "preset", "steps", "shift", "sigmas", "timesteps", "step_list", "policy"
    if given(args, flags):
        policy = choose_policy(args, has_predictor=False)
        schedule = choose_schedule(args, default_schedule(dit), policy)
        in_full = Case(f"{schedule.steps} steps in full", schedule, passes, "full")
        asked = [in_full] * (policy != "full") + [Case(policy, schedule, passes, policy)]
    elif dit.traits.has_glyphs:
        asked = [
            Case("8 steps", preset(8, 7.0), passes, "full"),
            Case("DisCa 1.5", PRESETS["disca-1.5"], passes),
        ]
    else:
        asked = [
            Case("20 steps", preset(20, 5.0), passes, "full"),
            Case("DisCa N=2", PRESETS["disca-n2"], passes),
            Case("DisCa N=3", PRESETS["disca-n3"], passes),
            Case("DisCa, 10 full steps", PRESETS["disca-10"], passes),
            Case("DisCa N=4", PRESETS["disca-n4"], passes),
        ]
    return [Case("50 steps, classifier-free guidance", PRESETS["full-50"], 2, "full"), *asked]
