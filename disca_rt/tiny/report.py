"""Reports of the ladder for people: Markdown tables from the JSONL lines, and a picture sheet."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from ..pipeline.media import to_frames
from .ladder import TABLES, TEACHER, WORK_TABLE
from .rung_cost import ROUNDS

DISTANCES = {"relative_l2": "L2", "teacher_l2": "L2 to teacher"}
SHOWN_FRAMES = 0, 2, 4
LABEL_WIDTH, GAP = 220, 6  # pixels
SHRINK = 3  # of the enlarged frames

Line = Mapping[str, Any]


def markdown(lines: Sequence[Line]) -> str:
    """Write the page: what ran, a table for each of the paper's, and the paired comparisons."""
    run = next(line for line in lines if line["kind"] == "run")
    rungs = [line for line in lines if line["kind"] == "rung"]
    comparisons = [line for line in lines if line["kind"] == "comparison"]
    parts = [_header(run)]
    for number, title in TABLES.items():
        rows = [line for line in rungs if number in line["tables"]]
        if rows:
            columns = WORK if number == WORK_TABLE else MARKS
            parts.append(f"## {number}. {title}\n\n" + _table(columns, rows))
    if comparisons:
        parts.append(_comparison_table(comparisons))
    return "\n".join(parts)


def _header(run: Line) -> str:
    return (
        "# The ladder\n\n"
        f"{run['prompts']} held-out prompts, the same noise for every row; {run['device']}, "
        f"processes × threads {run['processes']} × {run['threads']}, torch {run['torch']}, "
        f"{run['seconds'] / 60:.1f} minutes. Written by `disca-rt evaluate`; the numbers of the "
        "tables are the paper's. Scores in per cent with 95 % bootstrap intervals over the "
        "prompts, for weights of one training run each: `semantic` is the share of what a prompt "
        "names that is right (colour, shape, size, motion, background, number), `all right` that "
        "of clips with nothing wrong, `quality` the mean of no flicker, smoothness and sharpness, "
        "`total` (semantic + 4·quality)/5. `full` and `predicted` count "
        "forwards, two per step under classifier-free guidance. `L2` is the relative distance of "
        "the final latents to those of the same weights at 20 full steps, `L2 to teacher` to those "
        f"of {TEACHER}. A restriction (0.2, or as named) is in the time of the sampler's shift. "
        "Speed-ups are "
        f"against the first row, from FLOPs and as measured: medians of {ROUNDS} clips, one at a "
        "time and the rows by turns, prompts encoded and latents decoded, by one process with all "
        "threads; memory is of one clip beyond the weights.\n"
    )


Column = Callable[[Line], str]


def _score(name: str) -> Column:
    return lambda line: _percent(line[name])


def _distance(name: str) -> Column:
    return lambda line: _plain(line[name]) if name in line else ""


STEPS: Mapping[str, Column] = {
    "full": lambda line: str(line["full_steps"]),
    "predicted": lambda line: str(line["predicted_steps"]),
    "speed-up": lambda line: f"{line['speedup_theoretical']:.2f}",
}
MARKS: Mapping[str, Column] = {
    **STEPS,
    "semantic": _score("semantic"),
    "quality": _score("quality"),
    "total": _score("total"),
    "all right": _score("correct"),
    **{title: _distance(name) for name, title in DISTANCES.items()},
}
WORK: Mapping[str, Column] = {
    **STEPS,
    "measured": lambda line: f"{line['speedup_measured']:.2f}",
    "GFLOP": lambda line: f"{line['gflop']:.1f}",
    "peak MB": lambda line: f"{line['peak_bytes'] / 1e6:.2f}",
    "cache kB": lambda line: f"{line['cache_bytes'] / 1e3:.0f}",
}


def _table(columns: Mapping[str, Column], rows: Sequence[Line]) -> str:
    head = "| | " + " | ".join(columns) + " |\n|---|" + "--:|" * len(columns)
    body = (
        "| " + " | ".join([line["name"], *(cell(line) for cell in columns.values())]) + " |"
        for line in rows
    )
    return "\n".join([head, *body]) + "\n"


def _comparison_table(comparisons: Sequence[Line]) -> str:
    head = (
        "## Comparisons\n\nPaired differences over the same prompts and noise, first minus second. "
        "The first should have the higher semantic score (or be at most the margin lower) and the "
        "smaller distance; an ordering is open where its interval holds both answers.\n\n"
        "| first | second | semantic | | total | "
        + " | | ".join(DISTANCES.values())
        + " | |\n|---|---|--:|---|--:|"
        + "--:|---|" * len(DISTANCES)
    )
    return "\n".join([head, *map(_comparison_row, comparisons)]) + "\n"


def _comparison_row(line: Line) -> str:
    margin = f", less {100 * line['margin']:.0f} points" if line["margin"] else ""
    cells = [
        line["first"],
        line["second"] + margin,
        _percent(line["semantic"]),
        _verdict(line["semantic"], -line["margin"]),
        _percent(line["total"]),
    ]
    for name in DISTANCES:
        cells += _distance_cells(line[name]) if name in line["distances"] else ["", ""]
    return "| " + " | ".join(cells) + " |"


def _distance_cells(distance: Mapping[str, float]) -> list[str]:
    shorter = {"low": -distance["high"], "high": -distance["low"]}
    return [_plain(distance), _verdict(shorter, 0.0)]


def _verdict(interval: Mapping[str, float], least: float) -> str:
    """Compare a confidence interval with `least`: met above, missed below, open if it holds it."""
    if interval["low"] > least:
        return "met"
    return "missed" if interval["high"] < least else "open"


def _percent(interval: Mapping[str, float]) -> str:
    mean, low, high = (100 * interval[key] for key in ("mean", "low", "high"))
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def _plain(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def write_sheet(path: Path, videos: Mapping[str, Tensor]) -> None:
    """Write a PNG: a row per rung, the same prompts in its columns, three frames of each clip."""
    rows = [_sheet_row(name, clips) for name, clips in videos.items()]
    Image.fromarray(np.concatenate(rows)).save(path, format="PNG")


def _sheet_row(name: str, clips: Tensor) -> np.ndarray:
    parts = []
    for clip in clips:
        frames = to_frames(clip)[:, ::SHRINK, ::SHRINK]
        parts += [frames[index] for index in SHOWN_FRAMES]
        parts.append(np.full((frames.shape[1], 2 * GAP, 3), 255, np.uint8))
    row = np.concatenate(parts, axis=1)
    label = Image.new("RGB", (LABEL_WIDTH, row.shape[0]), "white")
    ImageDraw.Draw(label).text((4, row.shape[0] // 2 - 6), name, fill="black")
    row = np.concatenate([np.asarray(label), row], axis=1)
    return np.concatenate([row, np.full((GAP, row.shape[1], 3), 255, np.uint8)])
