"""Workers that share a rung's prompts: processes, each with its share of the CPU's threads.

Processes of one thread never wait for each other: two on two cores take 0.77 of the time of one
process of two threads.
"""

import multiprocessing
import pickle
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from .evaluate import BATCH, JudgedClips, generate_and_judge, joined
from .ladder import Rung, load_rung


class Workers:
    """Processes for `generate`, ended with the `with` block; a `count` of one is this process.

    `threads` is the number of PyTorch's threads in each; `calibration` as `load_rung` has it.
    """

    def __init__(
        self,
        count: int,
        folders: Sequence[Path],
        device: torch.device,
        calibration: str | None = None,
    ) -> None:
        self.threads = max(1, torch.get_num_threads() // count)
        self._count, self.calibration = count, calibration
        self._models = tuple(folders), device, calibration
        self._pool = None
        if count > 1:
            self._pool = ProcessPoolExecutor(
                count, multiprocessing.get_context("spawn"), _begin, (self.threads,)
            )

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._pool is None:
            return
        if kind is not None:  # nobody waits for what is under way
            for process in multiprocessing.active_children():
                process.terminate()
        self._pool.shutdown(cancel_futures=True)

    def generate(self, rung: Rung, prompts: Sequence[str], first: int = 0) -> JudgedClips:
        """Generate and judge one clip per prompt, in order; ChildProcessError if a worker dies.

        `first` is the place of the first prompt among all that are evaluated.
        """
        if self._pool is None:
            return _generate(rung, self._models, prompts, first)
        size = min(BATCH, -(-len(prompts) // self._count))  # of few prompts each has its share
        parts = [(prompts[start : start + size], start) for start in range(0, len(prompts), size)]
        jobs = [
            self._pool.submit(_pickled, rung, self._models, part, first + start)
            for part, start in parts
        ]
        try:
            return joined([pickle.loads(job.result()) for job in jobs])
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a worker was ended from outside (out of memory?); choose fewer --workers"
            ) from error


def _begin(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command's own process answers it
    torch.set_num_threads(threads)


def _pickled(*arguments: Any) -> bytes:
    """Generate and pickle: bare tensors need shared memory, of which containers have little."""
    return pickle.dumps(_generate(*arguments))


def _generate(
    rung: Rung,
    models: tuple[tuple[Path, ...], torch.device, str | None],
    prompts: Sequence[str],
    first: int,
) -> JudgedClips:
    return generate_and_judge(
        _loaded(rung, *models),
        prompts,
        rung.schedule,
        rung.policy,
        rung.guidance_scale,
        first=first,
    )


_loaded = lru_cache(maxsize=1)(load_rung)
