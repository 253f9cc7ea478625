"""`disca-rt calibrate`: records uncached samples of a model, and fits the tables of cache methods.

What is recorded lies in a folder beside the result until this is whole: a run that was interrupted
goes on where it was left.
"""

import argparse
import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import check_writable
from .ranks import joined_ranks
from .samples import prompts, read_prompts
from .sampling import (
    add_sampling_arguments,
    check_sampling_arguments,
    device_of,
    load_runtime,
    sample_request,
)

if TYPE_CHECKING:
    from ..calibration.session import Session
    from ..parallel.ranks import Ranks
    from ..pipeline.request import Request
    from ..pipeline.runtime import Runtime

PROMPTS = 4  # of the embedded model, where none are given
PROMPT_SEED = 77
SHARE = 0.8  # of the free memory, for what is recorded


def add_parser(subparsers: argparse._SubParsersAction, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="record a model's steps, and fit the tables that cache methods need",
        description="Every step is computed, so it takes as long as some uncached samples of each "
        "prompt. The result is for this model, size, noise levels and guidance alone; generate, "
        "bench, profile and evaluate find it by these. Interrupted, it goes on where it was left.",
    )
    add_sampling_arguments(parser, name)
    group = parser.add_argument_group("calibration")
    group.add_argument(
        "--prompts",
        type=prompts,
        metavar="FILE",
        help=f"prompts, one a line; or a number of the embedded model's own, default {PROMPTS}",
    )
    group.add_argument(
        "--out", type=Path, help="the calibration (.json); default: in the user's cache folder"
    )
    group.add_argument(
        "--memory", type=float, metavar="GB", help="for what is recorded; default: what is free"
    )
    group.add_argument(
        "--maps",
        action="store_true",
        help="fit a linear map to each block, too, for FastCache: large for a large model",
    )
    group.add_argument(
        "--attention-plan",
        type=float,
        metavar="DELTA",
        help="plan each block's attention, too, for DiTFastAttn, by the change of a step's output "
        "that is allowed; takes several steps for each block and step",
    )


def run(args: argparse.Namespace) -> None:
    if args.policy is not None or args.step_list is not None:
        raise ValueError("calibrate computes every step; leave --policy and --step-list out")
    if args.memory is not None and not args.memory > 0:
        raise ValueError(f"--memory must be above 0, got {args.memory:g}")
    if args.attention_plan is not None and not 0 < args.attention_plan < float("inf"):
        raise ValueError(f"--attention-plan must be above 0, got {args.attention_plan:g}")
    if args.out is not None:
        check_writable("--out", args.out, ".json")
    args.policy = "full"
    prompts = _prompts(args)
    args.prompt = prompts[0] if prompts else None
    check_sampling_arguments(args)
    with joined_ranks(args) as ranks:
        _calibrate(args, prompts, ranks)


def _prompts(args: argparse.Namespace) -> list[str]:
    """The prompts that the flags ask for; none of a saved conditioning."""
    from ..tiny.prompts import training_prompts

    given = [each for each in (args.prompt, args.prompts, args.conditioning) if each is not None]
    if len(given) > 1:
        raise ValueError("give one of a prompt, --prompts and --conditioning")
    if args.prompt is not None:
        return [args.prompt]
    if args.conditioning is not None:
        return []
    asked = PROMPTS if args.prompts is None else args.prompts
    if isinstance(asked, Path):
        return read_prompts(asked)
    if args.model is not None:
        raise ValueError("--prompts must be a file of prompts, one a line, for this model")
    return training_prompts(asked, PROMPT_SEED)


def _calibrate(args: argparse.Namespace, prompts: list[str], ranks: "Ranks | None") -> None:
    from ..calibration.places import usual_path
    from ..calibration.session import Session
    from ..calibration.store import Store
    from .devices import choose_ops

    is_first = ranks is None or ranks.is_first
    args.ops = choose_ops(args.ops, device_of(args, ranks))
    runtime = load_runtime(args, ranks)
    requests = _requests(args, prompts, runtime, ranks)
    with runtime.keeping_models():
        subject = runtime.subject(requests[0])
        out = args.out or usual_path(subject)
        check_writable("--out", out, ".json")
        store = Store(out.with_suffix(".recording"))
        budget = _budget(args, runtime, requests[0], 1 if ranks is None else ranks.size)
        session = Session(runtime, requests, store, budget, args.maps, args.attention_plan)
        if is_first:
            _tell(session, budget)
            args.kept = f"what was recorded is in {store.folder}; the same command goes on"
        _record(args, session, prompts, out, is_first)


def _requests(
    args: argparse.Namespace, prompts: list[str], runtime: "Runtime", ranks: "Ranks | None"
) -> "list[Request]":
    """A request of each prompt, encoded; the i-th one's noise is of seed + i."""
    if not prompts:
        return [sample_request(args, runtime, ranks, False)]
    requests = []
    with runtime.keeping("text_encoder"):
        for number, prompt in enumerate(prompts):
            args.prompt = prompt
            request = sample_request(args, runtime, ranks, False)
            requests.append(replace(request, seed=args.seed + number))
    return requests


def _budget(args: argparse.Namespace, runtime: "Runtime", request: "Request", ranks: int) -> int:
    """Bytes for what is recorded: as asked, or most of what an uncached sample leaves free."""
    import torch

    from ..instruments.capacity import capacity
    from ..work.memory import footprint
    from .out_of_memory import runtime_need

    device = runtime.facts.place.device
    if args.memory is not None:
        budget = int(args.memory * 1e9)
    else:
        held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        activations = footprint(runtime_need(runtime, args.ops, request, ranks)).activations
        budget = int(SHARE * (capacity(device) - held - activations))
    shared = torch.tensor([budget], dtype=torch.float64, device=device)  # all ranks plan alike
    return int(runtime.denoiser.sharding.from_first_rank(shared).item())


def _tell(session: "Session", budget: int) -> None:
    from ..calibration.runs import run_bytes
    from ..units import byte_text

    most = max(run_bytes(run, session.shape) for run in session.runs)
    print(
        f"{len(session.requests)} prompts, {len(session.runs)} recording runs and "
        f"{len(session.trials)} of trials each: {session.samples} samples; at most "
        f"{byte_text(most)} of {byte_text(budget)} at once",
        flush=True,
    )
    for name in session.left_out:
        print(f"trials of {name} are left out: they do not fit; more ranks would help")


def _record(
    args: argparse.Namespace, session: "Session", prompts: list[str], out: Path, is_first: bool
) -> None:
    """Record, fit and write; the first rank writes."""
    from ..calibration.file import write_calibration
    from ..calibration.tables import fit_tables
    from .progress import Bar

    with Bar("recording", session.samples, is_first) as bar:
        records = session.record(lambda done: bar.on_tile(done, session.samples), writes=is_first)
    if not is_first:
        return
    tables = fit_tables(records)
    if not tables.values:
        raise ValueError("nothing can be fitted to a sample of one step; give more --steps")
    written = write_calibration(out, session.subject, tables, _made(args, session, prompts))
    args.kept = None
    shutil.rmtree(session.store.folder, ignore_errors=True)
    print(f"tables: {', '.join(tables.values)}")
    print(f"wrote {', '.join(map(str, written))}")


def _made(args: argparse.Namespace, session: "Session", prompts: list[str]) -> dict[str, Any]:
    """What a calibration was made from, for people; of a saved conditioning no text is known."""
    import torch

    from .. import __version__

    texts = hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:16]
    return {
        "prompts": len(session.requests),
        "prompts_sha256": texts if prompts else None,
        "seed": args.seed,
        **({} if session.attention is None else {"attention_plan": session.attention}),
        "dtype": str(session.pipeline.facts.place.dtype).removeprefix("torch."),
        "disca_rt": __version__,
        "torch": torch.__version__.split("+")[0],
    }
