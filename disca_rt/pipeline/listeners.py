"""Progress and cancellation of a sample, by stage and by step."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..sampling.loop import Cancelled, StepEvent

StageName = Literal["conditioning", "denoise", "decode"]


@dataclass(frozen=True)
class Listeners:
    """Callbacks at each stage's begin and each step's end, and an event that ends the sample."""

    on_stage: Callable[[StageName], None] | None = None
    on_step: Callable[[StepEvent], None] | None = None
    cancel: threading.Event | None = None

    def begin(self, stage: StageName) -> None:
        """Tell that `stage` begins; raises `Cancelled` in its place where that is asked for."""
        if self.cancel is not None and self.cancel.is_set():
            where = "decode" if stage == "decode" else f"step 0, at {stage}"
            raise Cancelled(f"cancelled before {where}")
        if self.on_stage is not None:
            self.on_stage(stage)
