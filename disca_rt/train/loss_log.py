"""Loss log of a run: a line of `loss.jsonl` every few steps, and its curves as `loss.png`."""

import json
from collections.abc import Mapping
from pathlib import Path

from ..atomic import write_whole

SMOOTHED = 20  # lines that the heavier curve is a mean of


class LossLog:
    """Log in `folder`; lines after step `done`, left by a run that was killed, are dropped."""

    def __init__(self, folder: Path, done: int) -> None:
        self._lines, self._picture = folder / "loss.jsonl", folder / "loss.png"
        if self._lines.exists():
            kept = [line for line in self.read() if line["step"] <= done]
            text = "".join(json.dumps(line) + "\n" for line in kept)
            write_whole(self._lines, lambda partial: partial.write_text(text))

    def add(self, step: int, terms: Mapping[str, float], samples_per_second: float) -> None:
        """Append a line with the means of `terms` since the last one; `step` counts from 1."""
        line = {"step": step, **terms, "samples_per_second": round(samples_per_second, 2)}
        try:
            with self._lines.open("a") as log:
                log.write(json.dumps(line) + "\n")
        except OSError as error:
            raise OSError(f"cannot write {self._lines}: {error}") from error

    def read(self) -> list[dict]:
        """Read all lines but one at the end that a killed run could not finish."""
        whole, _, _ = self._lines.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def draw(self) -> None:
        """Write the curves, or nothing where matplotlib, an optional extra, is not installed."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return
        lines = self.read() if self._lines.exists() else []
        names = sorted({name for line in lines for name in line} - {"step", "samples_per_second"})
        figure = Figure(figsize=(8, 3 * max(1, len(names))), layout="constrained")
        for place, name in enumerate(names, start=1):
            axes = figure.add_subplot(len(names), 1, place, xlabel="step", ylabel=name)
            points = [(line["step"], line[name]) for line in lines if name in line]
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, linewidth=0.6, alpha=0.5)
            axes.plot(steps, _smooth(values), linewidth=1.5)
            axes.grid(alpha=0.3)
        write_whole(self._picture, lambda partial: figure.savefig(partial, format="png", dpi=100))


def _smooth(values: tuple[float, ...]) -> list[float]:
    windows = (values[max(0, i + 1 - SMOOTHED) : i + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]
