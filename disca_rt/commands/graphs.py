"""The flag --graphs: steps as CUDA graphs or one operator at a time."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def add_graphs_argument(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--graphs",
        action=argparse.BooleanOptionalAction,
        help="steps as CUDA graphs; default: on a GPU, where a process is alone",
    )


def check_graphs(args: argparse.Namespace) -> None:
    """Raise ValueError where graphs are asked for and there is no GPU."""
    from .devices import choose_device

    if args.graphs and choose_device(args.device).type != "cuda":
        raise ValueError(f"--graphs needs a CUDA device, got --device {args.device}; leave it out")


def wants_graphs(args: argparse.Namespace, device: "torch.device") -> bool:
    """Tell whether to use graphs; for several ranks only where asked: none has run them yet."""
    from ..parallel.ranks import is_launched

    is_default = device.type == "cuda" and not is_launched()
    return is_default if args.graphs is None else args.graphs
