"""Progress bars of a sample: on stderr, only where that is a terminal, gone when they end."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..sampling.loop import StepEvent


class Bar:
    """Bar of `total` pieces called `name`, while its context lasts; None: not known yet.

    It shows once it has begun, by `begin` or by the first piece: a refused input shows no bar.
    """

    def __init__(self, name: str, total: int | None, is_shown: bool = True) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        console = Console(stderr=True)
        is_hidden = not (is_shown and console.is_terminal)
        self._progress = Progress(
            *columns,
            console=console,
            transient=True,
            disable=is_hidden,
            redirect_stdout=sys.stdout.isatty(),  # a file's lines stay out of stderr
        )
        self._task = self._progress.add_task(name, total=total)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def begin(self) -> None:
        """Show the bar, before its first piece."""
        self._progress.start()

    def on_stage(self, stage: str) -> None:
        """Callback of a sample: shows the bar from the denoising's begin, while models load."""
        if stage == "denoise":
            self.begin()

    def on_step(self, event: StepEvent) -> None:
        """Callback of a sample: shows the step that has ended, by its kind."""
        self._progress.start()
        counts = {"completed": event.done, "total": event.total}
        self._progress.update(self._task, **counts, description=f"{event.kind} step")

    def on_tile(self, done: int, total: int) -> None:
        """Callback of a decode: shows the tiles done."""
        self._progress.start()
        self._progress.update(self._task, completed=done, total=total)
