"""Ladder of the embedded model: every way of sampling that the DisCa paper compares, as data.

A rung names its weights, its schedule and its policy. Knows nothing about judging or printing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch

from ..calibration.places import choose
from ..kernels.ops import Ops
from ..models.fp8_table import Fp8
from ..pipeline.runtime import Runtime
from ..schedule import PRESETS, Preset, preset
from .config import GUIDANCE_SCALE, SHIFT
from .runtime import SHIPPED, with_tiny_prompts

FOLDERS = Path("ladder"), SHIPPED  # what the package ships is not in the ladder's folder again
BASE, CFG = "base", "cfg-distilled"
MEANFLOW, RESTRICTED_04, RESTRICTED = "meanflow", "restricted-meanflow-0.4", "restricted-meanflow"


@dataclass(frozen=True)
class Rung:
    """One way of sampling; `dit` and `predictor` are names of files without `.safetensors`.

    `tables` are those of the paper that it stands in. `reference` names the rung whose final
    latents the row's are compared with: the same weights at 20 steps, all full.
    """

    name: str
    tables: tuple[int, ...]
    dit: str
    schedule: Preset
    policy: str = "full"
    predictor: str | None = None
    reference: str | None = None
    guidance_scale: float = GUIDANCE_SCALE


def _steps(count: int) -> Preset:
    return preset(count, SHIFT)


def _preset(name: str) -> Preset:
    published = PRESETS[name]
    return preset(published.steps, SHIFT, published.step_list)


def _full(dit: str, steps: int, *tables: int) -> Rung:
    name, reference = f"{dit}, {steps} steps", f"{dit}, 20 steps"
    return Rung(name, tables, dit, _steps(steps), reference=reference)


def _cached(
    name: str,
    published: str,
    tables: tuple[int, ...],
    policy: str = "disca",
    predictor: str | None = None,
    dit: str = RESTRICTED,
) -> Rung:
    return Rung(name, tables, dit, _preset(published), policy, predictor, f"{dit}, 20 steps")


WORK_TABLE = 4
TABLES = {
    1: "Ways of sampling",
    2: "MeanFlow and Restricted MeanFlow",
    3: "What DisCa needs",
    WORK_TABLE: "Work and memory",
}
TEACHER = f"{CFG}, 50 steps"  # what every distilled row learned from

RUNGS: tuple[Rung, ...] = (
    Rung("original, 50 steps x 2", (1, 4), BASE, _steps(50)),
    Rung("original, 10 steps x 2", (1, 4), BASE, _steps(10)),
    _full(CFG, 50, 1, 4),
    _full(CFG, 20, 1, 2, 4),
    _full(CFG, 10, 1, 2, 4),
    _full(MEANFLOW, 20, 2, 3),
    _full(MEANFLOW, 10, 2),
    _full(RESTRICTED_04, 20, 2),
    _full(RESTRICTED_04, 10, 2),
    _full(RESTRICTED_04, 9, 2),
    _full(RESTRICTED, 20, 1, 2, 3, 4),
    _full(RESTRICTED, 10, 1, 2),
    _full(RESTRICTED, 9, 2),
    _cached("reuse, 8 full steps", "disca-n4", (1, 4), "reuse"),
    _cached("Taylor of order 1, 8 full steps", "disca-n4", (1, 4), "taylor"),
    _cached("DisCa N=2", "disca-n2", (1, 4), predictor="predictor"),
    _cached("DisCa N=3", "disca-n3", (1, 4), predictor="predictor"),
    _cached("DisCa N=4", "disca-n4", (1, 3, 4), predictor="predictor"),
    _cached("DisCa N=4 without GAN", "disca-n4", (3,), predictor="predictor-without-gan"),
    _cached(
        "DisCa N=4 on MeanFlow", "disca-n4", (3,), predictor="predictor-on-meanflow", dit=MEANFLOW
    ),
)


class RungComparison(NamedTuple):
    """An ordering to be shown: `first` has the higher semantic score and smaller `distances`.

    With a `margin` the score may be as much lower. A distance is to what both have in common:
    "relative_l2" each to its own weights at 20 full steps, "teacher_l2" to the teacher at 50.
    """

    first: str
    second: str
    distances: tuple[str, ...] = ("relative_l2",)
    margin: float = 0.0


COMPARISONS = (
    RungComparison(
        f"{RESTRICTED}, 10 steps", f"{MEANFLOW}, 10 steps", ("relative_l2", "teacher_l2")
    ),
    RungComparison("DisCa N=4", f"{RESTRICTED}, 10 steps"),
    RungComparison("DisCa N=4", "reuse, 8 full steps"),
    RungComparison("DisCa N=4", "Taylor of order 1, 8 full steps"),
    RungComparison("DisCa N=4", f"{RESTRICTED}, 20 steps", distances=(), margin=0.02),
    RungComparison("DisCa N=4", "DisCa N=4 without GAN"),
    # What the second distillation is for:
    RungComparison(f"{RESTRICTED}, 20 steps", f"{CFG}, 20 steps", ("teacher_l2",)),
    RungComparison(f"{RESTRICTED}, 10 steps", f"{CFG}, 10 steps", ("relative_l2", "teacher_l2")),
)


def load_rung(
    rung: Rung,
    folders: Sequence[Path],
    device: torch.device,
    calibration: str | None = None,
    ops: Ops | None = None,
    dtype: torch.dtype = torch.float32,
    fp8: Fp8 = None,
) -> Runtime:
    """Load a rung's models from the files that `rung_weights` finds; on `device`.

    Policies take options that are left out from file `calibration`; for None from calibrations
    beside the weights, or the user's; for "none" from nowhere. Without `ops` the device's own.
    """
    paths = rung_weights(rung, folders)
    runtime = Runtime.load(*paths, device=device, dtype=dtype, ops=ops, fp8=fp8)
    runtime.calibration = choose(calibration, *folders)
    return with_tiny_prompts(runtime)


def rung_weights(rung: Rung, folders: Sequence[Path]) -> list[Path]:
    """Find a rung's files, each in the first of `folders` that has it; ValueError if none does."""
    return [_weights(name, folders) for name in (rung.dit, rung.predictor) if name]


def digests(rungs: Iterable[Rung], folders: Sequence[Path]) -> dict[str, str]:
    """Compute the SHA-256 of the files of `rungs`, by their names without `.safetensors`."""
    paths = {path for rung in rungs for path in rung_weights(rung, folders)}
    return {path.stem: sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}


def _weights(name: str, folders: Sequence[Path]) -> Path:
    places = [folder / f"{name}.safetensors" for folder in folders]
    for path in places:
        if path.is_file():
            return path
    raise ValueError(
        f"the ladder lacks {places[0]}; run from the repository, or give its folder in --ladder"
    )
