"""`disca-rt search`: the step list and stand-in with the smallest error for a given cost."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import check_writable
from .judged_model import (
    add_model_arguments,
    begin,
    is_model_asked_for,
    judged_model,
    refuse_embedded_flags,
)
from .samples import prompts

if TYPE_CHECKING:
    from ..cache_search.search import Found
    from ..schedule import Preset

STAND_INS = ("reuse", "taylor:order=1", "hermite:order=1", "disca")
PROMPTS, LISTS = 8, 60
PROMPT_SEED = 1
FILES = "search.jsonl", "found.json"


def add_parser(subparsers: argparse._SubParsersAction, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="find the step list and stand-in with the smallest error for a given cost",
        description="Measures how far each stand-in drifts from the run without a cache, finds the "
        "best step list by dynamic programming, then better ones next to it. Goes on where it was "
        "interrupted. Writes found.json, which generate takes as --preset. On the embedded model "
        "or, with --model or --dit and prompts or conditionings, on that one.",
        conflict_handler="resolve",  # flags of a sample with a meaning of their own here
    )
    add_model_arguments(parser, name)
    parser.add_argument("--budget", type=float, required=True, help="cost in full steps")
    parser.add_argument("--subject", help="of the embedded model: base or distilled (default)")
    parser.add_argument(
        "--prompts",
        type=prompts,
        metavar="N|FILE",
        help=f"how many of the embedded model's, default {PROMPTS}; or with --model a file, one a "
        "line",
    )
    parser.add_argument(
        "--policy",
        action="append",
        dest="policies",
        help="a policy that follows a step list; may be given several times; default: "
        + ", ".join(STAND_INS),
    )
    parser.add_argument(
        "--lists", type=int, default=LISTS, help=f"lists to sample for each; default {LISTS}"
    )
    parser.add_argument("--ladder", type=Path, help="folder of the embedded model's weights")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the results")
    parser.add_argument(
        "--workers", type=int, help="of the embedded model: processes that share the CPU's threads"
    )


def run(args: argparse.Namespace) -> None:
    from ..cache.policies import needs_step_list

    is_model = is_model_asked_for(args)
    for policy in args.policies or ():
        if not needs_step_list(policy):
            raise ValueError(f"--policy must follow a step list, as taylor does, got {policy}")
    if args.prompts == 0 or args.lists < 1:
        raise ValueError("--prompts and --lists must be at least 1")
    if args.step_list is not None:
        raise ValueError("--step-list is what is searched for; leave it out")
    for name in FILES:
        check_writable("--out", args.out / name, Path(name).suffix)
    (_search_model if is_model else _search_embedded)(args)


def _search_embedded(args: argparse.Namespace) -> None:
    from ..cache_judge.embedded import SUBJECTS, Embedded
    from ..cache_judge.record import Record
    from ..cache_search.search import Search
    from ..tiny.ladder import FOLDERS
    from ..tiny.prompts import training_prompts
    from ..tiny.workers import Workers
    from .devices import choose_device, choose_workers

    name = args.subject or "distilled"
    if name not in SUBJECTS:
        raise ValueError(f"--subject must be of {', '.join(SUBJECTS)}, got {name!r}")
    rung, device = SUBJECTS[name], choose_device(args.device)
    policies = _policies(args, rung.predictor is not None)
    folders = [args.ladder] if args.ladder else FOLDERS
    prompts = training_prompts(PROMPTS if args.prompts is None else args.prompts, PROMPT_SEED)
    processes = choose_workers(args.workers, device)
    with Workers(processes, folders, device, args.calibration) as workers:
        subject = Embedded(name, folders, prompts, workers)
        search = Search(subject, Record(args.out / FILES[0]), args.budget, _tell)
        _write(args, search.run(policies, args.lists), rung.schedule)


def _search_model(args: argparse.Namespace) -> None:
    from ..cache_judge.record import Record
    from ..cache_search.search import Search

    refuse_embedded_flags(args, "subject", "ladder", "workers")
    with judged_model(args, decodes=False) as (runtime, subject):
        search = Search(subject, Record(args.out / FILES[0]), args.budget, _tell)
        policies = _policies(args, runtime.parts.predictor is not None)
        begin(args, subject, search.forecast(policies, args.lists))
        _write(args, search.run(policies, args.lists), subject.preset)


def _policies(args: argparse.Namespace, has_predictor: bool) -> Sequence[str]:
    return args.policies or [each for each in STAND_INS if has_predictor or each != "disca"]


def _write(args: argparse.Namespace, found: "Sequence[Found]", levels: "Preset") -> None:
    from ..preset_file import write_preset

    best, path = found[0], args.out / FILES[1]
    preset = levels._replace(step_list=None, policy=best.policy)
    write_preset(path, preset, full_steps=best.full_steps, relative_l2=best.error)
    for each in found:
        print(f"L2 {each.error:.4f} at {each.full_steps:.2f} full steps: {each.policy}")
    print(f"wrote {path}: generate --preset {path}")


def _tell(text: str) -> None:
    print(text, flush=True)


def interrupted(args: argparse.Namespace) -> str:
    """Say what is kept."""
    return f"what was measured is in {args.out}; the same command goes on"
