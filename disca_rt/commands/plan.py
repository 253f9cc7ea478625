"""`disca-rt plan`: shares of each rank under sequence parallelism, traffic and predicted time."""

import argparse
import math
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import add_model_arguments, check_writable, given, items

if TYPE_CHECKING:
    from ..parallel._native import Partition
    from ..simulation.estimate import Rates
    from ..simulation.forecast import Forecast, Job

MOST_RANKS = 256  # every rank is simulated, and each pass around the ring
DEFAULT_RANKS = 8


def world_sizes(text: str) -> tuple[int, ...]:
    """Read numbers of ranks, as `items` splits them."""
    if not (read := items(text)) or not all(re.fullmatch("[0-9]{1,5}", each) for each in read):
        raise argparse.ArgumentTypeError(f"must be numbers of ranks such as 2,4,8, got {text!r}")
    return tuple(map(int, read))


def add_parser(subparsers: argparse._SubParsersAction, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="show how sequence parallelism would divide a model, and what it would cost",
        description="Tokens and heads of every rank, bytes over every link, and the predicted "
        "timeline of a block in bf16, simulated from stated rates: nothing is run, nothing is "
        "measured. A link is a name or GB/s each way and microseconds, such as 375,15.",
    )
    add_model_arguments(parser)
    parser.add_argument("--predictor-depth", type=int, default=2, help="blocks; default 2")
    ranks = parser.add_mutually_exclusive_group()
    ranks.add_argument("--ranks", type=int, help=f"GPUs; default {DEFAULT_RANKS}")
    ranks.add_argument(
        "--world-sizes", type=world_sizes, help="2,4,8,16,64: a line for each, as Markdown"
    )
    parser.add_argument("--ranks-per-node", type=int, default=8, help="default 8; 0: one node")
    parser.add_argument(
        "--ulysses-degree", type=int, default=0, help="ranks of a group; default: as heads divide"
    )
    parser.add_argument("--head-chunks", type=int, default=1, help="pieces of a rank's heads")
    parser.add_argument(
        "--link", default="nvlink4", help="of a node (an unknown name lists all); default nvlink4"
    )
    parser.add_argument("--between-nodes", default="ethernet", help="link; default ethernet")
    _add_rates(parser)
    parser.add_argument(
        "--timeline", type=Path, metavar="FILE.png", help="draw a block of each kind"
    )


def _add_rates(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("rates of one GPU", "Defaults are an H200's.")
    group.add_argument("--gemm-tflops", type=float, help="matrix products; default 760")
    group.add_argument("--attention-tflops", type=float, help="default 700, before its last wave")
    group.add_argument("--copy-gbs", type=float, help="everything else; default 4300")
    group.add_argument("--sms", type=int, help="attention tiles at once; default 132")


def run(args: argparse.Namespace) -> None:
    from ..simulation.forecast import Job, forecast
    from ..simulation.links import Links, get_link
    from .model_size import model_size
    from .plan_tables import markdown, print_tables

    for flag in ("predictor_depth", "head_chunks"):
        _check(flag, getattr(args, flag), 1, math.inf)
    if args.timeline is not None:
        _check_picture(args.timeline, args.world_sizes)
    job, rates = Job(*model_size(args), args.predictor_depth), _rates(args)
    links = Links(get_link(args.link), get_link(args.between_nodes), args.ranks_per_node)
    if args.world_sizes is not None:
        partitions = [_partition(args, job, ranks) for ranks in args.world_sizes]
        forecasts = [forecast(job, partition, links, rates) for partition in partitions]
        print(markdown(partitions, forecasts, links, rates.sms))
        return
    partition = _partition(args, job, DEFAULT_RANKS if args.ranks is None else args.ranks)
    predicted = forecast(job, partition, links, rates)
    if args.timeline is not None:  # first, in case whoever reads the tables stops early
        _draw(args.timeline, predicted, f"{args.model} on {partition.ranks} ranks")
    print_tables(args.model, job, partition, predicted, links, rates)


def _partition(args: argparse.Namespace, job: "Job", ranks: int) -> "Partition":
    _check("ranks", ranks, 1, MOST_RANKS)
    return job.partition(ranks, args.ranks_per_node, args.ulysses_degree, args.head_chunks)


def _rates(args: argparse.Namespace) -> "Rates":
    from ..simulation.estimate import Rates

    rates = given(args, Rates._fields)
    for name, value in rates.items():
        _check(name, value, 1e-6 if name != "sms" else 1, 1e9)
    return Rates(**rates)


def _check(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        bounds = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise ValueError(f"--{name.replace('_', '-')} must be {bounds}, got {value}")


def _check_picture(path: Path, world_sizes: tuple[int, ...] | None) -> None:
    if world_sizes is not None:
        raise ValueError("--timeline draws one plan; give --ranks in place of --world-sizes")
    check_writable("--timeline", path, ".png")
    if find_spec("matplotlib") is None:
        raise ValueError("--timeline needs matplotlib: pip install 'disca_rt[plot]'")


def _draw(path: Path, predicted: "Forecast", title: str) -> None:
    from ..atomic import write_whole
    from .timeline_picture import write_timeline

    write_whole(path, lambda partial: write_timeline(partial, predicted, title))
    print(f"wrote {path}")
