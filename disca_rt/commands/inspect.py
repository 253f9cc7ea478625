"""`disca-rt inspect`: what a folder or a checkpoint is, what it lacks, whether two fit together."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from ..folders.parts import ModelFolder
    from ..weights.inspect import CheckpointInfo


REASONS = {"sizes from images": "bucket"}  # a row of the table -> the setting


def add_parser(subparsers: argparse._SubParsersAction, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="say what a model's folder or a checkpoint is",
        description="Reads names and headers only. Of a model's folder it says which parts are "
        "there, what is missing for what, and what it is sampled with; given a DiT and a "
        "predictor, whether they fit; of what a cache method learned, for which model.",
    )
    parser.add_argument(
        "files", nargs="+", metavar="FOLDER|FILE", help="folders, checkpoints or Hub references"
    )
    parser.add_argument("--variant", help="one of several DiTs in a folder")


def run(args: argparse.Namespace) -> None:
    from rich.console import Console

    from ..weights.inspect import inspect_checkpoint

    console, infos = Console(), []
    for source in args.files:
        folder = _folder(source, args.variant)
        console.print(source, soft_wrap=True, highlight=False)
        if folder is not None:
            console.print(_title(folder), soft_wrap=True, highlight=False)
            console.print(_parts_table(folder), _settings_table(folder))
            for line in _lacks(folder):
                console.print(line, soft_wrap=True, highlight=False)
        if (learned := _learned_table(source)) is not None:
            console.print(learned)
            continue
        for part in _checkpoints(source, folder):
            infos.append(inspect_checkpoint(part))
            console.print(_table(infos[-1]))
    for line in _fits(infos):
        console.print(line, soft_wrap=True, highlight=False)


def _folder(source: str, variant: str | None) -> "ModelFolder | None":
    """The model in a local folder; None for a checkpoint, and for what is on the Hub."""
    from ..folders.find import ALONE, find_model

    if not Path(source).is_dir():
        if variant is not None:
            raise ValueError(f"--variant goes with a folder on this machine, got {source}")
        return None
    folder = find_model(source, variant=variant)
    return None if folder.layout == ALONE else folder


def _learned_table(source: str) -> "Table | None":
    """The facts of a file of what a cache method learned; None of any other."""
    from rich.table import Column, Table

    from ..cache.learned_kinds import about

    if Path(source).suffix != ".safetensors" or (found := about(Path(source))) is None:
        return None
    table = Table("property", Column("value", overflow="fold"), show_header=False)
    for name, value in {
        "kind": f"{found.holds}, of a cache method",
        "method": found.method,
        "version": found.version,
        **found.sizes,
        "tensors": ", ".join(f"{name} {shape}" for name, shape in found.shapes.items()),
        "used by": found.policy,
    }.items():
        table.add_row(name, value)
    return table


def _checkpoints(source: str, folder: "ModelFolder | None") -> list[str | Path]:
    """Checkpoints described by their tensors: of a folder its DiT and its predictor."""
    if folder is None:
        return [source]
    return [folder.parts[name].path for name in ("dit", "predictor") if name in folder.parts]


def _title(folder: "ModelFolder") -> str:
    from ..family import FAMILIES

    task = {"t2v": "text-to-video", "i2v": "image-to-video"}[folder.task]
    return f"{FAMILIES[folder.family].title}, {task}, {folder.layout} layout"


def _parts_table(folder: "ModelFolder") -> "Table":
    from rich.table import Column, Table

    table = Table("part", Column("where", overflow="fold"))
    for name, part in folder.parts.items():
        path = part.path
        inside = path.is_relative_to(folder.root) and path != folder.root
        table.add_row(name, str(path.relative_to(folder.root) if inside else path))
    return table


def _settings_table(folder: "ModelFolder") -> "Table":
    from rich.table import Table

    settings = folder.settings
    frames, height, width = settings.size
    near = settings.bucket
    values = {
        "variant": settings.variant,
        "size": f"{width}x{height}x{frames}",
        "sizes from images": near and f"the published ones of about {near}x{near}",
        "steps": settings.steps,
        "shift": settings.shift,
        "embedded_scale": settings.embedded_scale,
        "classifier_free_scale": settings.classifier_free_scale,
        "preset": settings.preset,
    }
    table = Table("sampled with", "", "because")
    for name, value in values.items():
        if value is not None:
            table.add_row(
                name.replace("_", " "),
                str(value),
                settings.reasons.get(REASONS.get(name, name), ""),
            )
    return table


def _lacks(folder: "ModelFolder") -> list[str]:
    """Abilities of the folder, and a line for each part that one of them lacks."""
    from ..folders.parts import NEEDS

    lines = [f"note: {folder.settings.note}"] if folder.settings.note else []
    for what, names in NEEDS.items():
        if what == "images" and folder.task == "t2v":
            lines.append("images: no, it is a text-to-video model")
            continue
        missing = folder.missing(*names)
        lines.append(f"{what}: {'no, without ' + ', '.join(missing) if missing else 'yes'}")
        lines += [f"  {folder.lack(name)}" for name in missing]
    return lines


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
