"""`disca-rt inspect`: what a checkpoint is, what it lacks for DisCa, whether two fit together."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from ..weights.inspect import CheckpointInfo


def add_parser(subparsers: argparse._SubParsersAction, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="say what a checkpoint is",
        description="Reads headers only. Given a DiT and a predictor, says whether they fit.",
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="checkpoint files, folders or Hub references"
    )


def run(args: argparse.Namespace) -> None:
    from rich.console import Console

    from ..weights.inspect import inspect_checkpoint

    infos = [inspect_checkpoint(source) for source in args.files]
    console = Console()
    for source, info in zip(args.files, infos, strict=True):
        console.print(source, soft_wrap=True, highlight=False)
        console.print(_table(info))
    for line in _fits(infos):
        console.print(line, soft_wrap=True, highlight=False)


def _table(info: "CheckpointInfo") -> "Table":
    from rich.table import Table

    table = Table("property", "value", show_header=False)
    dtypes = ", ".join(f"{dtype} ({count})" for dtype, count in info.dtypes.items())
    rows = {
        "kind": info.kind,
        "family": info.family,
        "variant": info.variant,
        "layout": info.layout,
        "layers": info.config.layers,
        **({"inputs": info.config.inputs} if info.kind == "dit" else {}),
        "hidden, heads": f"{info.config.hidden}, {info.config.heads}",
        "parameters": f"{info.parameters:,}",
        "dtypes (tensors)": dtypes,
        "encoding": info.encoding,
        "missing for DisCa": "; ".join(info.missing_for_disca) or "nothing",
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def _fits(infos: list["CheckpointInfo"]) -> list[str]:
    """One line for each pair of a predictor and a DiT."""
    dits = [info for info in infos if info.kind == "dit"]
    predictors = [info for info in infos if info.kind == "predictor"]
    return [_verdict(predictor, dit) for dit in dits for predictor in predictors]


def _verdict(predictor: "CheckpointInfo", dit: "CheckpointInfo") -> str:
    from ..weights.sidecar import meanflow_doubt

    differences = predictor.config.differences(dit.config)
    if not differences:
        doubt = meanflow_doubt(predictor.paths[0].parent, dit.config)
        return f"the predictor fits the DiT{', but ' if doubt else ''}{doubt}"
    return f"the predictor does not fit the DiT: {'; '.join(differences)}"
