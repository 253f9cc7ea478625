"""Benchmark of our exchange of tokens for heads over gloo: `python -m bench.exchange`.

Starts torchrun once for each number of ranks, one thread each, writes JSON lines of what rank 0
measured and prints the table of them. Absolute times are this machine's; the bytes that a rank
sends and the passes over memory are the same anywhere.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from disca_rt.measure.record import Record, read_records, write_records
from disca_rt.measure.table import markdown

from .run import RESULTS, positive

ROOT = Path(__file__).parents[1]


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    records = []
    for ranks in args.ranks:
        measured = measured_by(ranks, args.samples, args.dry_run)
        if not args.dry_run:
            write_records(args.out or RESULTS / f"exchange-{date.today():%Y-%m-%d}.jsonl", measured)
        records += measured
    print(f"\n{markdown(records)}")


def measured_by(ranks: int, samples: int | None, is_small: bool) -> list[Record]:
    """Records of the benchmark run by so many ranks; CalledProcessError where one fails.

    `samples` None: the benchmark's own number; `is_small`: one of each on the smallest shapes.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "records.jsonl"
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command = [*launch, "-m", "bench.exchange_rank", str(out)]
        if is_small:
            command += ["--samples", "1", "--small"]
        elif samples is not None:
            command += ["--samples", str(samples)]
        # The profiler, which counts copies, would say when it starts and stops.
        quiet = {"OMP_NUM_THREADS": "1", "KINETO_LOG_LEVEL": "9"}
        subprocess.run([sys.executable, *command], env=os.environ | quiet, cwd=ROOT, check=True)
        return read_records(out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.exchange", description=__doc__)
    parser.add_argument(
        "--ranks", type=positive, nargs="+", default=[2, 4], help="several: one after another"
    )
    parser.add_argument(
        "--samples", type=positive, help="of each contender; default: the benchmark's own number"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="every benchmark once, small; nothing written"
    )
    parser.add_argument(
        "--out", type=Path, help="lines of an earlier run in it are replaced; default: by date"
    )
    return parser


if __name__ == "__main__":
    main()
