"""The progress bar of a sample, on stderr so that stdout stays clean."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..runtime.engine import StepEvent


class StepProgress:
    """A context manager; `on_step` is the callback that `Runtime.sample` takes."""

    def __init__(self, steps: int) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task("sampling", total=steps)

    def __enter__(self) -> "StepProgress":
        self._progress.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.__exit__(*exception)

    def on_step(self, event: StepEvent) -> None:
        done = event.step.index + 1
        self._progress.update(self._task, completed=done, description=f"{event.kind} step")
