"""Benchmark of whole models, a prompt to an mp4: `python -m bench.pipeline`, to lines and a table.

Ours takes turns with the pipeline that diffusers makes of the same folder, in one process, in fp32,
with one prompt, size, seed and number of steps; their frames are compared before anything is timed.
Both write the mp4 by the same encoder, as diffusers has none of its own. Imports are not timed.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path

import torch

from disca_rt.commands.arguments import video_size
from disca_rt.measure.harness import host_timer
from disca_rt.measure.machine import this_machine
from disca_rt.measure.record import Record
from disca_rt.measure.session import Session, with_stages
from disca_rt.measure.table import markdown

from .run import RESULTS, positive
from .whole_models import MODELS, write_model
from .whole_samples import Job, comparisons

PROMPT = "a cat walks on the grass, realistic"


def main(argv: Sequence[str] | None = None) -> None:
    parser = _parser()
    args = parser.parse_args(argv)
    for model in args.model if args.against == "diffusers" else ():
        if model not in MODELS and not (Path(model) / "model_index.json").is_file():
            parser.error(
                f"--model {model} has no model_index.json, so that diffusers makes no pipeline of "
                "it; give --against nothing"
            )
    torch.set_num_threads(args.threads)
    out = args.out or RESULTS / f"pipeline-{date.today():%Y-%m-%d}.jsonl"
    say = partial(print, flush=True)
    machine, timer = this_machine(), host_timer()
    session = Session(machine, timer, out, say, weights=args.weights, samples=args.samples)
    with tempfile.TemporaryDirectory() as scratch:
        for name, folder in _folders(args.model, Path(scratch)):
            width, height, frames = args.size
            job = Job(name, folder, args.prompt, (frames, height, width), args.steps)
            run(session, job, args.against == "diffusers", Path(scratch) / "video.mp4")
    print(f"\n{markdown(session.records)}\nwrote {out}")


def run(session: Session, job: Job, against_diffusers: bool, video: Path) -> list[Record]:
    """Measure both ways to run `job`: from the files to `video`, and with all parts in memory."""
    records = []
    for comparison, times in comparisons(job, against_diffusers, video):
        records += session.run(comparison, partial(with_stages, times=times))
    return records


def _folders(models: Sequence[str], scratch: Path) -> list[tuple[str, Path]]:
    """Name and folder of each model; those that have no folder yet are written into `scratch`."""
    return [
        (name, write_model(name, scratch / name))
        if name in MODELS
        else (Path(name).name, Path(name))
        for name in models
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.pipeline", description=__doc__)
    parser.add_argument(
        "--model",
        nargs="+",
        default=list(MODELS),
        help=f"folders of whole models, or {' and '.join(MODELS)} with random weights (default)",
    )
    parser.add_argument(
        "--against", choices=("diffusers", "nothing"), default="diffusers", help="the baseline"
    )
    parser.add_argument("--weights", default="random", help="what the lines call the weights")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--size", type=video_size, default=(96, 64, 17), metavar="WxHxFRAMES")
    parser.add_argument("--steps", type=positive, default=8)
    parser.add_argument("--samples", type=positive, default=7, help="of each contender")
    parser.add_argument("--threads", type=positive, default=os.cpu_count(), help="of PyTorch")
    parser.add_argument("--out", type=Path, help="its lines are replaced; default: by date")
    return parser


if __name__ == "__main__":
    main()
