"""Checkpoints of a run: all it needs to go on as if nothing had happened, either whole or absent.

torch.distributed.checkpoint writes the shards of all ranks into a folder beside its place, which is
renamed once it is complete; then older ones go.
"""

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from .distributed import World
from .stage import Stage

_PREFIX = "step_"
_PROBE = 1 << 20  # bytes that a disk is asked for after a failure


@dataclass
class TrainState:
    """A run between two steps: `done` of them, `ema` the moving average of the exported weights."""

    stage: Stage
    optimizers: list[torch.optim.Optimizer]
    ema: dict[str, Tensor]
    done: int = 0


# torch.distributed.checkpoint warns of a world of one, which is what a run on one device is.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable")


def save_checkpoint(folder: Path, state: TrainState, world: World) -> None:
    """Write `folder/step_N` and then remove older ones; OSError says why it cannot be written."""
    target = folder / f"{_PREFIX}{state.done:08d}"
    partial = folder / f".{target.name}.partial"
    if world.is_first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    world.barrier()
    with world.operation("checkpoint"):
        try:
            with _in_one_line(f"{partial} cannot be written", partial):
                dcp.save(_tensors(state), checkpoint_id=partial, no_dist=world.size == 1)
        except OSError:
            if world.is_first:
                shutil.rmtree(partial, ignore_errors=True)
            raise
    world.barrier()
    if world.is_first:
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
        for old in _complete(folder):
            if old != target:
                shutil.rmtree(old)
    world.barrier()


def has_checkpoint(folder: Path) -> bool:
    """Tell if `folder` holds a complete checkpoint."""
    return bool(_complete(folder))


def load_checkpoint(folder: Path, state: TrainState, world: World) -> bool:
    """Bring `state` to the last checkpoint in `folder`; False where there is none."""
    found = _complete(folder)
    if not found:
        return False
    unreadable = f"{found[-1]} cannot be read; without it the run begins again"
    with world.operation("reading the checkpoint"):
        tensors = _tensors(state)
        with _in_one_line(unreadable):
            dcp.load(tensors, checkpoint_id=found[-1], no_dist=world.size == 1)
        set_state_dict(
            state.stage.trained,
            state.optimizers,
            model_state_dict=tensors["modules"],
            optim_state_dict=tensors["optimizers"],
        )
    for name, tensor in tensors["ema"].items():
        state.ema[name].copy_(tensor)
    torch.set_rng_state(tensors["rng"])
    state.done = int(tensors["done"])
    return True


@contextmanager
def _in_one_line(failure: str, written: Path | None = None) -> Iterator[None]:
    """Raise what fails on any rank as an OSError of one line that begins with `failure`.

    torch.distributed.checkpoint raises a trace as text, and of a full disk its writer tells only at
    which byte it stopped: so the disk of the folder `written` is asked, too.
    """
    try:
        yield
    except CheckpointException as error:
        rank, (cause, _) = min(error.failures.items())
        if isinstance(cause, KeyboardInterrupt):
            raise cause from error
        why = (written and _refusal(written)) or str(cause).partition("\n")[0]
        raise OSError(f"{failure} (rank {rank}: {why})") from error


def _refusal(folder: Path) -> str | None:
    """Ask the disk of `folder` for a little more; returns the system's reason to refuse it."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(_PROBE))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return error.strerror
    return None


def _tensors(state: TrainState) -> dict:
    """Collect all that a checkpoint holds; `done` is also the position in the data."""
    modules, optimizers = get_state_dict(state.stage.trained, state.optimizers)
    return {
        "modules": modules,
        "optimizers": optimizers,
        "ema": state.ema,
        "rng": torch.get_rng_state(),
        "done": torch.tensor(state.done),
    }


def _complete(folder: Path) -> list[Path]:
    """List the complete checkpoints, the oldest first."""
    return sorted(folder.glob(f"{_PREFIX}*"))
