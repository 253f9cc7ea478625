"""Ranges, named and nested, that profilers show: in PyTorch's trace, and on a GPU as NVTX.

A range is named by its level and what it is: "stage prompts", "step 3", "middle predicted" (between
embedding and head), "block single_blocks.4", "op rms_norm_rope". Knows no model; costs next to
nothing until it records.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.profiler import record_function

from .work import Work

LEVELS = "stage", "step", "middle", "block", "op"


class Ranges:
    """Recorder of ranges; `works` has the work of each range of level "op", in order of start."""

    def __init__(self, device: torch.device) -> None:
        self._nvtx = device.type == "cuda"
        self._open: list[record_function] = []
        self.is_recording = False
        self.works: list[Work] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Context in which ranges are recorded; outside of it they do nothing."""
        self.is_recording, self.works = True, []
        try:
            yield
        finally:
            while self._open:
                self.pop()
            self.is_recording = False

    def push(self, name: str) -> None:
        if self.is_recording:
            if self._nvtx:
                torch.cuda.nvtx.range_push(name)
            self._open.append(record_function(name))
            self._open[-1].__enter__()

    def pop(self) -> None:
        if self.is_recording:
            self._open.pop().__exit__(None, None, None)
            if self._nvtx:
                torch.cuda.nvtx.range_pop()

    @contextmanager
    def range(self, name: str) -> Iterator[None]:
        self.push(name)
        try:
            yield
        finally:
            self.pop()
