"""The ladder's results for people: Markdown tables from the JSONL lines, and a picture sheet."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from ..media import to_frames

SHOWN_FRAMES = 0, 2, 4
LABEL_WIDTH, GAP = 220, 6  # pixels
SHRINK = 3  # of the enlarged frames

Line = Mapping[str, Any]


def markdown(lines: Sequence[Line]) -> str:
    """The page: what ran, one row per rung, and the paired comparisons."""
    run = next(line for line in lines if line["kind"] == "run")
    rungs = [line for line in lines if line["kind"] == "rung"]
    comparisons = [line for line in lines if line["kind"] == "comparison"]
    parts = [_header(run), _rung_table(rungs)]
    if comparisons:
        parts.append(_comparison_table(comparisons))
    return "\n".join(parts)


def _header(run: Line) -> str:
    return (
        "# The ladder\n\n"
        f"{run['prompts']} held-out prompts, the same noise for every row; {run['device']}, "
        f"{run['threads']} threads, torch {run['torch']}. Written by `disca-rt evaluate`. "
        "Scores in per cent with 95 % bootstrap intervals; `L2` is the relative distance of the "
        "final latents to those of the same weights at 20 full steps; speed-ups are against the "
        "first row, from FLOPs and measured; memory is of one clip beyond the weights.\n"
    )


def _rung_table(rungs: Sequence[Line]) -> str:
    head = (
        "| | full | predicted | GFLOP | speed-up | measured | peak MB | cache kB "
        "| semantic | quality | total | all right | L2 |\n|---|" + "--:|" * 12
    )
    return "\n".join([head, *map(_rung_row, rungs)]) + "\n"


def _rung_row(line: Line) -> str:
    cells = [
        line["name"],
        str(line["full_steps"]),
        str(line["predicted_steps"]),
        f"{line['gflop']:.1f}",
        f"{line['speedup_theoretical']:.2f}",
        f"{line['speedup_measured']:.2f}",
        f"{line['peak_bytes'] / 1e6:.2f}",
        f"{line['cache_bytes'] / 1e3:.0f}",
        *(_percent(line[score]) for score in ("semantic", "quality", "total", "correct")),
        _plain(line["relative_l2"]) if "relative_l2" in line else "",
    ]
    return "| " + " | ".join(cells) + " |"


def _comparison_table(comparisons: Sequence[Line]) -> str:
    head = (
        "Paired differences over the same prompts and noise, first minus second:\n\n"
        "| first | second | semantic | total | L2 |\n|---|---|--:|--:|--:|"
    )
    rows = [
        f"| {line['better']} | {line['worse']} | {_percent(line['semantic'])} "
        f"| {_percent(line['total'])} "
        f"| {_plain(line['relative_l2']) if 'relative_l2' in line else ''} |"
        for line in comparisons
    ]
    return "\n".join([head, *rows]) + "\n"


def _percent(interval: Mapping[str, float]) -> str:
    mean, low, high = (100 * interval[key] for key in ("mean", "low", "high"))
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def _plain(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def write_sheet(path: Path, videos: Mapping[str, Tensor]) -> None:
    """A PNG: a row per rung, the same prompts in its columns, three frames of each clip."""
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
