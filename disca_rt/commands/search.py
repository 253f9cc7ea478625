"""`disca-rt search`: the step list and stand-in with the smallest error for a given cost."""

import argparse
from pathlib import Path

STAND_INS = ("reuse", "taylor:order=1", "hermite:order=1", "disca")
PROMPTS, LISTS = 8, 60
PROMPT_SEED = 1


def add_parser(subparsers: argparse._SubParsersAction, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="find the step list and stand-in with the smallest error for a given cost",
        description="Measures how far each stand-in drifts from the run without a cache, finds the "
        "best step list by dynamic programming, then better ones next to it. Goes on where it was "
        "interrupted. Writes found.json, which generate takes as --preset.",
    )
    parser.add_argument("--budget", type=float, required=True, help="cost in full steps")
    parser.add_argument("--subject", default="distilled", help="base or distilled (default)")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help=f"how many; default {PROMPTS}")
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
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1")
    parser.add_argument("--workers", type=int, help="processes that share the CPU's threads")


def run(args: argparse.Namespace) -> None:
    from ..cache.policies import needs_step_list
    from ..cache_judge.embedded import SUBJECTS, Embedded
    from ..cache_judge.record import Record
    from ..cache_search.search import Search
    from ..preset_file import write_preset
    from ..tiny.ladder import FOLDERS
    from ..tiny.prompts import calibration_prompts
    from ..tiny.workers import Workers
    from .devices import choose_device, choose_workers

    if args.subject not in SUBJECTS:
        raise ValueError(f"--subject must be of {', '.join(SUBJECTS)}, got {args.subject!r}")
    has_predictor = SUBJECTS[args.subject].predictor is not None
    policies = args.policies or [p for p in STAND_INS if has_predictor or p != "disca"]
    for policy in policies:
        if not needs_step_list(policy):
            raise ValueError(f"--policy must follow a step list, as taylor does, got {policy}")
    if args.prompts < 1 or args.lists < 1:
        raise ValueError("--prompts and --lists must be at least 1")
    device = choose_device(args.device)
    folders = [args.ladder] if args.ladder else FOLDERS
    record, rung = Record(args.out / "search.jsonl"), SUBJECTS[args.subject]
    prompts = calibration_prompts(args.prompts, PROMPT_SEED)
    with Workers(choose_workers(args.workers, device), folders, device) as workers:
        subject = Embedded(args.subject, folders, prompts, workers)
        search = Search(subject, record, args.budget, lambda text: print(text, flush=True))
        found = search.run(policies, args.lists)
    best = found[0]
    preset = rung.schedule._replace(step_list=None, policy=best.policy)
    path = args.out / "found.json"
    write_preset(path, preset, full_steps=best.full_steps, relative_l2=best.error)
    for each in found:
        print(f"L2 {each.error:.4f} at {each.full_steps:.2f} full steps: {each.policy}")
    print(f"wrote {path}: generate --preset {path}")


def interrupted(args: argparse.Namespace) -> str:
    """Say what is kept."""
    return f"what was measured is in {args.out}; the same command goes on"
