"""`disca-rt evaluate --caches`: judges cache methods against each other; tables and a picture."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ..cache_judge.record import Record
    from ..cache_judge.summary import Summary

PROMPTS, QUICK_PROMPTS = 100, 4
FILES = ("caches.jsonl", "caches.md", "caches.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("--caches: cache methods under one judge")
    group.add_argument(
        "--caches",
        action="store_true",
        help="judge every cache method at several strengths against the run without a cache; "
        "goes on where it was interrupted; writes caches.md, caches.jsonl and caches.png",
    )
    group.add_argument(
        "--subjects",
        help="of base (50 steps with guidance) and distilled (20 steps), commas; default: both",
    )
    group.add_argument(
        "--policy",
        action="append",
        dest="policies",
        help="judge this policy instead of the whole set; may be given several times",
    )


def judge_caches(args: argparse.Namespace, device: "torch.device", processes: int) -> None:
    """Judge on the embedded model, and write the results."""
    from rich.console import Console

    from ..cache_judge.contenders import CONTENDERS, QUICK
    from ..cache_judge.embedded import SUBJECTS, Embedded
    from ..cache_judge.judging import Judging
    from ..cache_judge.record import Record
    from ..tiny.evaluate import PROMPT_SEED
    from ..tiny.ladder import FOLDERS
    from ..tiny.prompts import held_out_prompts
    from ..tiny.workers import Workers

    names = args.subjects.split(",") if args.subjects else list(SUBJECTS)
    for name in names:
        if name not in SUBJECTS:
            raise ValueError(f"--subjects must be of {', '.join(SUBJECTS)}, got {name!r}")
    folders = [args.ladder] if args.ladder else FOLDERS
    console, started = Console(stderr=True), time.perf_counter()
    count = args.prompts or (QUICK_PROMPTS if args.quick else PROMPTS)
    if count < 2:
        raise ValueError(f"--prompts must be at least 2, for an interval, got {args.prompts}")
    record = Record(args.out / FILES[0])
    prompts = held_out_prompts(count, PROMPT_SEED)
    with Workers(processes, folders, device) as workers:
        for name in names:
            subject = Embedded(name, folders, prompts, workers)
            policies = args.policies or (QUICK if args.quick else CONTENDERS)[name]
            if args.only is not None:
                policies = [policy for policy in policies if args.only in policy]
            told = Judging(subject, record, lambda text: console.print(text, highlight=False))
            told.run(policies)
    _write(args.out, record, names, time.perf_counter() - started)


def _write(out: Path, record: "Record", names: Sequence[str], seconds: float) -> None:
    from ..atomic import write_all
    from ..cache_judge.page import page
    from ..cache_judge.picture import write_picture
    from ..cache_judge.summary import summaries

    rows: dict[str, list[Summary]] = {}
    for name in names:
        (begun,) = record.of("subject", name)
        rows[begun["title"]] = summaries(record, name)
    text = page(rows, _facts(record, names))
    write_all(
        {
            out / "caches.md": lambda partial: partial.write_text(text),
            out / "caches.png": lambda partial: write_picture(partial, rows),
        }
    )
    print(text.split("## The methods")[0])
    print(
        f"wrote {out / 'caches.md'}, caches.jsonl and caches.png beside it, {seconds / 60:.1f} min"
    )


def _facts(record: "Record", names: Sequence[str]) -> str:
    import torch

    (begun,) = record.of("subject", names[0])
    return (
        f"{begun['facts']['prompts']} held-out prompts, written by `disca-rt evaluate --caches`; "
        f"torch {torch.__version__.split('+')[0]}.\n"
    )
