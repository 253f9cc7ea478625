"""The tables that a recording is fitted to, by the names that rules and stand-ins have for them.

A table's keys are options of the parts that name it. One that needs numbers that were not recorded,
or more steps than there were, is left out. DiTFastAttn's plan is greedy over outputs of the model
with its own sparse attention, and comes as one more row here where that is recorded.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .fits.branch_table import fit_branch_table, median_budget
from .fits.clusters import descriptors, fit_clusters, fit_solvers
from .fits.curves import fit_curve
from .fits.linear_maps import fit_linear_map
from .fits.magnitudes import fit_magnitudes
from .fits.polynomial import fit_polynomial
from .fits.reuse_list import fit_reuse_list, fit_scales
from .fits.settled import fit_impacts, fit_theta
from .fits.trajectory import fit_curvature, fit_gamma
from .records import Records
from .rows import SOLVERS

THRESHOLD = 0.1  # of ERTACache's list; the paper's lambda is not known, a choice

Values = dict[str, Any]


class Fit(NamedTuple):
    """One table: the first of the numbers that it needs, and how it is made of them."""

    needs: str
    fit: Callable[[Records], Values]


def _teacache(records: Records) -> Values:
    inputs, outputs = (records.ratios(f"{of}/l1/0") for of in ("modulated", "patches"))
    return {"coefficients": fit_polynomial(inputs.ravel(), outputs.ravel())}


def _magcache(records: Records) -> Values:
    """Ratios of the conditional pass, and of the unconditional one where there is one."""
    values = {"mag_ratios": fit_magnitudes(records.ratios("residual/row_size/0"))}
    if records.passes == 2:
        values["mag_ratios_2"] = fit_magnitudes(records.ratios("residual/row_size/1"))
    return values


def _block_caching(records: Records) -> Values:
    """Changes of the blocks at every step, of step 0 first; and curves of each branch.

    Both are of the conditional pass.
    """
    blocks = [name.rsplit("/", 1)[1] for name in records.names("block/l1/0/")]
    curves = [_curve(records, "block", each) for each in blocks]
    branches = [name.removeprefix("branch/l1/0/") for name in records.names("branch/l1/0/")]
    return {
        "curves": tuple(change for step in zip(*curves, strict=True) for change in step),
        "branches": tuple(each.replace("/", ".") for each in branches),
        "branch_curves": tuple(_curve(records, "branch", each) for each in branches),
    }


def _curve(records: Records, of: str, place: str) -> tuple[float, ...]:
    changes, sizes = (records.numerators(f"{of}/{norm}/0/{place}") for norm in ("l1", "size"))
    return fit_curve(changes, sizes)


def _mixcache(records: Records) -> Values:
    """theta, and the impacts I of each mode: constants of step and cfg, by step of blocks."""
    values: Values = {"theta": fit_theta(records.ratios("velocity/l1"))}
    for name in records.names("impacts/"):
        impacts, mode = fit_impacts(records.stack(name)), name.removeprefix("impacts/")
        if mode in ("step", "cfg"):
            values[f"impact_{mode}"] = float(np.mean(impacts[1:]))
        else:
            values.setdefault("impact_depths", [])
            values.setdefault("impact_blocks", [])
            values["impact_depths"].append(int(mode.removeprefix("block ")))
            values["impact_blocks"].append(impacts)
    lists = "impact_depths", "impact_blocks"
    return values | {key: tuple(values[key]) for key in lists if key in values}


def _hyca(records: Records) -> Values:
    """The cluster of each channel, and each cluster's solver."""
    clusters = fit_clusters(descriptors(records.mean("channels/moves")))
    solvers = fit_solvers(records.mean("channels/errors"), clusters, SOLVERS)
    return {"clusters": tuple(clusters.tolist()), "solvers": solvers}


def _feb_cache(records: Records) -> Values:
    """The state of each step, and the errors that it was made from."""
    attention, both = (records.mean(f"branches/{each}") for each in ("attention", "both"))
    return {
        "states": fit_branch_table(attention, both, median_budget(both)),
        "attention_errors": (0.0, *attention[1:].tolist()),
        "both_errors": (0.0, *both[1:].tolist()),
    }


def _ertacache(records: Records) -> Values:
    """The list at a threshold of 0.1, the scales of its reused steps, and all errors."""
    errors = records.sum("residual/pairs") / records.sum("residual/size")[None, :]
    steps = fit_reuse_list(errors, THRESHOLD)
    return {
        "step_list": steps,
        "error_scale": fit_scales(records.sum("residual/products"), steps),
        "errors": tuple(map(tuple, errors.tolist())),
    }


def _omnicache(records: Records) -> Values:
    """Curvature by step; the mean gamma from 0 to 1, and that of each step."""
    gamma = fit_gamma(records.sum("path/products"))
    return {
        "curvature": fit_curvature(records.stack("path/curvature")),
        "gamma": min(max(float(np.mean(gamma[1:-1] or (1.0,))), 0.0), 1.0),
        "gammas": gamma,
    }


def _changes(records: Records) -> Values:
    """Relative changes that belong to no method: of the output, and of guidance, by step."""
    values = {"velocity": (0.0, *records.ratios("velocity/l1").mean(0)[1:].tolist())}
    if records.passes == 2:
        values["guidance"] = tuple(records.ratios("guidance/l1").mean(0).tolist())
    return values


FITS: dict[str, Fit] = {
    "teacache": Fit("modulated/l1/0", _teacache),
    "magcache": Fit("residual/row_size/0", _magcache),
    "block-caching": Fit("block/l1/0/0", _block_caching),
    "mixcache": Fit("velocity/l1", _mixcache),
    "hyca": Fit("channels/errors", _hyca),
    "feb-cache": Fit("branches/both", _feb_cache),
    "ertacache": Fit("residual/pairs", _ertacache),
    "omnicache": Fit("path/products", _omnicache),
    "changes": Fit("velocity/l1", _changes),
}


class Tables(NamedTuple):
    """All tables by name, and large tensors by "table.name"."""

    values: dict[str, Values]
    tensors: dict[str, Tensor]


def fit_tables(records: Records) -> Tables:
    """The tables that the recorded numbers suffice for; none of a sample of one step."""
    steps = len(records.of_prompts[0]["velocity/l1"])
    there = [name for name, each in FITS.items() if steps > 1 and records.has(each.needs)]
    return Tables({name: FITS[name].fit(records) for name in there}, _maps(records))


def _maps(records: Records) -> dict[str, Tensor]:
    """FastCache's `fastcache.weight [blocks, C, C]` and `fastcache.bias [blocks, C]`, fp32."""
    names = records.names("map/")
    if not names:
        return {}
    maps = [fit_linear_map(records.sum(name)) for name in names]
    kinds = ("weight", "bias")
    return {
        f"fastcache.{kind}": torch.from_numpy(np.stack(each)).float()
        for kind, each in zip(kinds, zip(*maps, strict=True), strict=True)
    }
