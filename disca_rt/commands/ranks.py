"""The ranks of a command that torchrun may have started: flags, joining them, their attention."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .arguments import given

if TYPE_CHECKING:
    from ..attention.local import LocalAttention
    from ..attention.protocol import Attention
    from ..config import DiTConfig
    from ..parallel.ranks import Ranks

FLAGS = "timeout", "head_chunks", "ulysses_degree", "max_ctas"
MAX_FLAG_VALUE = 86_400  # of any of them; as seconds a day


def add_rank_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Add --timeout, --head-chunks, --ulysses-degree and --max-ctas."""
    group = parser.add_argument_group(
        f"ranks (torchrun --nproc-per-node N -m disca_rt {command} ...)"
    )
    add_timeout_argument(group, "60")
    group.add_argument("--head-chunks", type=int, help="pieces a rank's heads are exchanged in")
    group.add_argument(
        "--ulysses-degree", type=int, help="ranks that trade heads; a ring of groups is the rest"
    )
    group.add_argument(
        "--max-ctas", type=int, help="SMs of a GPU that NCCL may take from the work beside it"
    )


def add_timeout_argument(group: argparse._ArgumentGroup, default: str) -> None:
    group.add_argument(
        "--timeout", type=float, help=f"seconds to wait for a rank; default {default}"
    )


def check_ranks(args: argparse.Namespace, names: Sequence[str] = FLAGS) -> None:
    """Raise ValueError for a flag that is out of range, or given without several ranks."""
    from ..parallel.ranks import is_launched

    for name, value in given(args, names).items():
        flag = f"--{name.replace('_', '-')}"
        if not is_launched():
            raise ValueError(f"{flag} is for several ranks; start them with torchrun")
        if not 0 < value <= MAX_FLAG_VALUE:
            raise ValueError(f"{flag} must be above 0 and at most {MAX_FLAG_VALUE}, got {value}")


def check_partition(
    args: argparse.Namespace,
    ranks: "Ranks",
    config: "DiTConfig",
    latents: "Sequence[int]",
    tokens: int,
) -> None:
    """Raise ValueError, as `plan` words it, where ranks cannot share a pass.

    `latents` is their shape (C, T, H, W), `tokens` the number of the text's.
    """
    from ..simulation.forecast import Job

    job = Job(config, tuple(latents), tokens)
    job.partition(ranks.size, ranks.per_node, args.ulysses_degree or 0, args.head_chunks or 1)


def as_flags(args: argparse.Namespace) -> dict[str, str]:
    """Map every argument by its flag, for ranks to compare."""
    return {f"--{name.replace('_', '-')}": str(value) for name, value in vars(args).items()}


@contextmanager
def joined_ranks(args: argparse.Namespace) -> Iterator["Ranks | None"]:
    """Join the ranks, checked to be started alike; None where this process is alone."""
    from datetime import timedelta

    from ..parallel.ranks import TIMEOUT, is_launched, joined
    from .devices import choose_device

    if not is_launched():
        yield None
        return
    seconds = TIMEOUT if args.timeout is None else args.timeout
    max_ctas = getattr(args, "max_ctas", None)  # decode has no such flag
    device = choose_device(args.device)
    with joined(device, timedelta(seconds=seconds), max_ctas=max_ctas) as ranks:
        ranks.check_alike(as_flags(args))
        yield ranks


def choose_attention(
    args: argparse.Namespace, ranks: "Ranks | None", local: "LocalAttention"
) -> "Attention":
    """Return `local`, or with `ranks` the attention in which they share a sample."""
    if ranks is None:
        return local
    from ..parallel.attention import UlyssesAttention
    from ..parallel.topology import Topology

    degree = args.ulysses_degree or 0
    topology = Topology(ranks.group, ranks.timeout, ranks.per_node, degree, ranks.max_ctas)
    return ranks.use(UlyssesAttention(topology, local, args.head_chunks or 1))
