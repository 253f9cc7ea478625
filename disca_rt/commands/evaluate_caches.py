"""`disca-rt evaluate --caches`: judges cache methods against each other; tables and a picture."""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .judged_model import (
    add_model_arguments,
    begin,
    flags_given,
    is_model_asked_for,
    judged_model,
    refuse_embedded_flags,
    with_list,
)

if TYPE_CHECKING:
    from ..cache_judge.embedded import Embedded
    from ..cache_judge.record import Record
    from ..cache_judge.summary import Summary
    from ..cache_judge.whole import Whole
    from ..pipeline.runtime import Runtime

PROMPTS, QUICK_PROMPTS = 100, 4
FILES = ("caches.jsonl", "caches.md", "caches.png")


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Add --caches with its own flags, and those of a model that is judged."""
    add_model_arguments(parser, command)
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
        help="judge this policy instead of the whole set; may be given several times. By default a "
        "model of --model gets each method at one or two settings",
    )
    group.add_argument(
        "--latents-only",
        action="store_true",
        help="compare latents of --model, without PSNR and SSIM: nothing is decoded; also where "
        "the VAE does not fit beside the DiT, which stays in memory",
    )


def refuse_cache_flags(args: argparse.Namespace) -> None:
    """Raise ValueError for a flag that needs --caches."""
    own = {
        "--policy": args.policies,
        "--subjects": args.subjects,
        "--latents-only": args.latents_only,
    }
    for flag in (*filter(own.get, own), *flags_given(args, but=("device", "policy", "dit"))):
        raise ValueError(f"{flag} goes with --caches")


def judge_caches(args: argparse.Namespace) -> None:
    """Judge on the model that is named, or on the embedded one, and write the results."""
    from ..cache_judge.record import Record
    from .arguments import check_writable

    is_model = is_model_asked_for(args)
    if args.latents_only and not is_model:
        raise ValueError("--latents-only goes with --model or --dit")
    for name in FILES:
        check_writable("--out", args.out / name, Path(name).suffix)
    record, started = Record(args.out / FILES[0]), time.perf_counter()
    names = (_judge_model if is_model else _judge_embedded)(args, record)
    _write(args.out, record, names, time.perf_counter() - started)


def _judge_embedded(args: argparse.Namespace, record: "Record") -> Sequence[str]:
    from ..cache_judge.contenders import QUICK, contenders
    from ..cache_judge.embedded import SUBJECTS, Embedded
    from ..cache_judge.judging import Judging
    from ..tiny.evaluate import PROMPT_SEED
    from ..tiny.ladder import FOLDERS
    from ..tiny.prompts import held_out_prompts
    from ..tiny.workers import Workers
    from .devices import choose_device, choose_workers

    if args.prompts is not None and args.quick:
        raise ValueError("give either --prompts or --quick")
    names = args.subjects.split(",") if args.subjects else list(SUBJECTS)
    for name in names:
        if name not in SUBJECTS:
            raise ValueError(f"--subjects must be of {', '.join(SUBJECTS)}, got {name!r}")
    folders, device = [args.ladder] if args.ladder else FOLDERS, choose_device(args.device)
    count = args.prompts or (QUICK_PROMPTS if args.quick else PROMPTS)
    if count < 2:
        raise ValueError(f"--prompts must be at least 2, for an interval, got {args.prompts}")
    prompts = held_out_prompts(count, PROMPT_SEED)
    processes = choose_workers(args.workers, device)
    with Workers(processes, folders, device, args.calibration) as workers:
        subjects = [Embedded(name, folders, prompts, workers) for name in names]
        for subject in subjects:
            name = subject.name
            whole = QUICK[name] if args.quick else contenders(name, folders[0])
            policies = _chosen(args, args.policies or whole)
            if args.policies is None:
                policies = list(_calibrated(subject, policies))
            Judging(subject, record, _tell).run(policies)
    return names


def _calibrated(subject: "Embedded", policies: Sequence[str]) -> Iterator[str]:
    """Those of `policies` that lack no options of a calibration; the others are told of."""
    from ..cache.calibration import Uncalibrated

    for policy in policies:
        try:
            subject.check(policy)
        except Uncalibrated as error:
            _tell(f"{policy} is left out: {error}")
        else:
            yield policy


def _judge_model(args: argparse.Namespace, record: "Record") -> Sequence[str]:
    from ..cache.policies import read_policy
    from ..cache_judge.forecast import forecast
    from ..cache_judge.judging import Judging

    for policy in args.policies or ():
        read_policy(policy)  # before gigabytes are read
    refuse_embedded_flags(args, "subjects", "ladder", "workers")
    with judged_model(args, not args.latents_only) as (runtime, subject):
        judging = Judging(subject, record, _tell)
        policies = _policies(args, runtime, subject)
        begin(args, subject, forecast(subject, record, policies))
        judging.run(policies)
    return [subject.name]


def _policies(args: argparse.Namespace, runtime: "Runtime", subject: "Whole") -> Sequence[str]:
    """The policies that are named, checked, or a short list of those that the model takes.

    A preset's own policy comes first in it.
    """
    from ..cache_judge.short_list import short_list
    from ..preset_file import read_preset

    if args.policies:
        policies = [with_list(args, runtime, policy) for policy in args.policies]
        for policy in policies:
            subject.check(policy)
        return policies
    chosen, left_out = short_list(subject.steps, subject.check, args.quick)
    own = None if args.preset is None else read_preset(args.preset).policy
    policies = _chosen(args, list(dict.fromkeys([own, *chosen] if own else chosen)))
    for name, reason in left_out.items():
        if args.only is None or args.only in name:
            _tell(f"{name} is left out: {reason}")
    return policies


def _chosen(args: argparse.Namespace, policies: Sequence[str]) -> Sequence[str]:
    chosen = [policy for policy in policies if args.only is None or args.only in policy]
    if not chosen:
        raise ValueError(f"--only {args.only!r} is in no policy; they are {', '.join(policies)}")
    return chosen


def _tell(text: str) -> None:
    from rich.console import Console

    Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)


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
    facts = begun["facts"]
    kind = "samples" if "latents" in facts else "held-out prompts"
    return (
        f"{facts['prompts']} {kind}, written by `disca-rt evaluate --caches`; "
        f"torch {torch.__version__.split('+')[0]}.\n"
    )
