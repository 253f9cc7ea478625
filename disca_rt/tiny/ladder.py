"""The ladder: every way of sampling the embedded model that the DisCa paper compares, as data.

A rung names its weights in the ladder's folder, its schedule and its policy. Knows nothing about
judging or printing.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from ..runtime.runtime import Runtime
from ..schedule import PRESETS, Schedule, full_schedule
from .config import GUIDANCE_SCALE, SCHEDULE
from .runtime import with_tiny_prompts

FOLDER = Path("ladder")
BASE, CFG = "base", "cfg-distilled"
MEANFLOW, RESTRICTED_04, RESTRICTED = "meanflow", "restricted-meanflow-0.4", "restricted-meanflow"


@dataclass(frozen=True)
class Rung:
    """One row: `dit` and `predictor` are names of files without `.safetensors`.

    `reference` names the rung whose final latents the row's are compared with: the same weights at
    20 steps, all full.
    """

    name: str
    table: int  # of the paper's
    dit: str
    schedule: Schedule
    policy: str = "full"
    predictor: str | None = None
    reference: str | None = None
    guidance_scale: float = GUIDANCE_SCALE


def _steps(count: int) -> Schedule:
    return full_schedule(count, SCHEDULE.shift)


def _preset(name: str) -> Schedule:
    return replace(PRESETS[name], shift=SCHEDULE.shift)


def _disca(name: str, preset: str, table: int, predictor: str, dit: str = RESTRICTED) -> Rung:
    return Rung(name, table, dit, _preset(preset), "disca", predictor, f"{dit}, 20 steps")


def _distilled(dit: str, steps: tuple[int, ...], table: int) -> tuple[Rung, ...]:
    reference = f"{dit}, 20 steps"
    return tuple(
        Rung(f"{dit}, {count} steps", table, dit, _steps(count), reference=reference)
        for count in steps
    )


RUNGS: tuple[Rung, ...] = (
    Rung("original, 50 steps x 2", 1, BASE, _steps(50)),
    Rung("original, 10 steps x 2", 1, BASE, _steps(10)),
    *_distilled(CFG, (50, 20, 10), 1),
    *_distilled(MEANFLOW, (20, 10), 2),
    *_distilled(RESTRICTED_04, (20, 10, 9), 2),
    *_distilled(RESTRICTED, (20, 10, 9), 2),
    Rung(
        "reuse, 8 full steps",
        1,
        RESTRICTED,
        _preset("disca-n4"),
        "reuse",
        reference=f"{RESTRICTED}, 20 steps",
    ),
    Rung(
        "Taylor, 8 full steps",
        1,
        RESTRICTED,
        _preset("disca-n4"),
        "taylor",
        reference=f"{RESTRICTED}, 20 steps",
    ),
    _disca("DisCa N=2", "disca-n2", 1, "predictor"),
    _disca("DisCa N=3", "disca-n3", 1, "predictor"),
    _disca("DisCa N=4", "disca-n4", 1, "predictor"),
    _disca("DisCa N=4 without GAN", "disca-n4", 3, "predictor-without-gan"),
    _disca("DisCa N=4 on MeanFlow", "disca-n4", 3, "predictor-on-meanflow", MEANFLOW),
)


class Comparison(NamedTuple):
    """`better` should have the higher semantic score and the smaller distance."""

    better: str
    worse: str


COMPARISONS = (
    Comparison(f"{RESTRICTED}, 10 steps", f"{MEANFLOW}, 10 steps"),
    Comparison("DisCa N=4", f"{RESTRICTED}, 10 steps"),
    Comparison("DisCa N=4", "reuse, 8 full steps"),
    Comparison("DisCa N=4", "Taylor, 8 full steps"),
    Comparison("DisCa N=4", "DisCa N=4 without GAN"),
    Comparison("DisCa N=4", f"{RESTRICTED}, 20 steps"),
)


def load_rung(rung: Rung, folder: Path, device: torch.device) -> Runtime:
    """The rung's models from the ladder in `folder`; ValueError says what is missing."""
    paths = [folder / f"{name}.safetensors" for name in (rung.dit, rung.predictor) if name]
    for path in paths:
        if not path.is_file():
            raise ValueError(
                f"the ladder lacks {path}; run from the repository, or give its folder in --ladder"
            )
    return with_tiny_prompts(Runtime.load(*paths, device=device, dtype=torch.float32))
