"""`disca-rt evaluate`: judges the ladder of the embedded model; writes tables, lines, a picture."""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..tiny.ladder import Rung

from .evaluate_caches import PROMPTS as CACHE_PROMPTS
from .evaluate_caches import QUICK_PROMPTS as CACHE_QUICK_PROMPTS
from .evaluate_caches import add_arguments as add_cache_arguments
from .evaluate_caches import judge_caches, refuse_cache_flags
from .samples import prompts

PROMPTS, QUICK_PROMPTS = 300, 8
SHOWN = 6  # prompts on the picture sheet


def add_parser(subparsers: argparse._SubParsersAction, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="judge the embedded model at every step count and policy that the paper compares",
        description="Held-out prompts, fixed noise, paired intervals. Writes ladder.md, "
        "ladder.jsonl and ladder.png. Most of the ladder's weights are in the repository only; "
        "--dit judges one checkpoint of your own instead, at 50 steps. With --caches cache "
        "methods are judged: on the embedded model or, with --model or --dit and prompts or "
        "conditionings, on that one, by the flags that generate has.",
        conflict_handler="resolve",  # flags of a sample with a meaning of their own here
    )
    add_cache_arguments(parser, name)
    parser.add_argument("--ladder", type=Path, help="folder of all its weights")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the results")
    parser.add_argument(
        "--prompts",
        type=prompts,
        metavar="N|FILE",
        help=f"how many of the embedded model's, default {PROMPTS}, with --caches {CACHE_PROMPTS}; "
        "or with --caches and --model a file, one a line",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"a trial, not a result: {QUICK_PROMPTS} prompts; with --caches "
        f"{CACHE_QUICK_PROMPTS} prompts and few methods; with --caches --model few methods",
    )
    parser.add_argument("--only", help="rungs whose names contain this; the first row always runs")
    parser.add_argument(
        "--dit", help="a checkpoint to judge instead of the ladder; with --caches of any model"
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="processes that share the CPU's threads; default: one for each thread",
    )


def run(args: argparse.Namespace) -> None:
    from rich.console import Console

    from ..atomic import write_all
    from ..tiny.evaluate import PROMPT_SEED
    from ..tiny.ladder import digests
    from ..tiny.prompts import held_out_prompts
    from ..tiny.report import markdown, write_sheet
    from ..tiny.run_ladder import LadderRun
    from ..tiny.workers import Workers
    from .arguments import check_writable
    from .devices import choose_device, choose_workers

    if args.prompts is not None and args.quick and not args.caches:
        raise ValueError("give either --prompts or --quick")
    if args.caches:
        judge_caches(args)
        return
    refuse_cache_flags(args)
    count = args.prompts
    if count is None:
        count = QUICK_PROMPTS if args.quick else PROMPTS
    if count < 2:
        raise ValueError(f"--prompts must be at least 2, for an interval, got {args.prompts}")
    for name in ("ladder.jsonl", "ladder.md", "ladder.png"):
        check_writable("--out", args.out / name, Path(name).suffix)
    device = choose_device(args.device)
    folders, rungs = _rungs(args)
    ladder = LadderRun(folders, held_out_prompts(count, PROMPT_SEED), device, SHOWN)
    console = Console(stderr=True)
    processes, started = choose_workers(args.workers, device), time.perf_counter()
    with Workers(processes, folders, device) as workers:
        ladder.run(rungs, workers, lambda rung: console.print(f"{rung.name} ...", highlight=False))
    described = _described(count, device, processes, workers.threads)
    described |= {"seconds": time.perf_counter() - started, "weights": digests(rungs, folders)}
    lines = [described, *ladder.lines]
    page = markdown(lines)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_all(
        {
            args.out / "ladder.jsonl": lambda partial: partial.write_text(text),
            args.out / "ladder.md": lambda partial: partial.write_text(page),
            args.out / "ladder.png": lambda partial: write_sheet(partial, ladder.videos),
        }
    )
    print(page)
    print(f"wrote {args.out / 'ladder.md'}, ladder.jsonl and ladder.png beside it")


def _rungs(args: argparse.Namespace) -> tuple[Sequence[Path], list["Rung"]]:
    """Choose the folders of weights, and the rungs asked for with those they are compared with."""
    from ..tiny.config import SCHEDULE
    from ..tiny.ladder import FOLDERS, RUNGS, TEACHER, Rung

    if args.dit is not None and (args.only is not None or args.ladder is not None):
        raise ValueError("--dit judges one checkpoint; leave out --only and --ladder")
    if args.dit is not None:
        path = Path(args.dit)
        path = path / "dit.safetensors" if path.is_dir() else path
        if not path.is_file() or path.suffix != ".safetensors":
            raise ValueError(f"--dit must be a .safetensors file, or a folder with one, got {path}")
        return [path.parent], [Rung("50 steps", (1,), path.stem, SCHEDULE)]
    chosen = [rung for rung in RUNGS[1:] if args.only is None or args.only in rung.name]
    if not chosen:
        names = [rung.name for rung in RUNGS[1:]]
        raise ValueError(f"--only {args.only!r} is in no rung; they are {names}")
    needed = {rung.reference for rung in chosen} | {TEACHER}
    rungs = [rung for rung in RUNGS[1:] if rung in chosen or rung.name in needed]
    return [args.ladder] if args.ladder else FOLDERS, [RUNGS[0], *rungs]


def _described(prompts: int, device: Any, processes: int, threads: int) -> dict[str, Any]:
    import torch

    from ..instruments.device_name import device_name

    return {
        "kind": "run",
        "prompts": prompts,
        "device": device_name(device),
        "processes": processes,
        "threads": threads,
        "torch": torch.__version__.split("+")[0],
    }


def interrupted(args: argparse.Namespace) -> str:
    """Say what is kept."""
    if args.caches:
        return f"what was judged is in {args.out}; the same command goes on"
    return "nothing was written"
