"""The progress bar of a sample: on stderr, only where that is a terminal, gone when it ends."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..sampling.loop import StepEvent


class StepProgress:
    """Bar of a sample's steps, while its context lasts; `on_step` is the callback to give."""

    def __init__(self, steps: int, is_shown: bool = True) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        console = Console(stderr=True)
        is_hidden = not (is_shown and console.is_terminal)
        self._progress = Progress(*columns, console=console, transient=True, disable=is_hidden)
        self._task = self._progress.add_task("sampling", total=steps)

    def __enter__(self) -> "StepProgress":
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def on_step(self, event: StepEvent) -> None:
        self._progress.start()  # not before: a refused input shows no bar
        done = event.step.index + 1
        self._progress.update(self._task, completed=done, description=f"{event.kind} step")
