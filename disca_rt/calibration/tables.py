"""The tables that a recording is fitted to, by the names that rules and stand-ins have for them.

A table's keys are options of the parts that name it. One that needs numbers that were not recorded,
or more steps than there were, is left out.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..cache.attention_plan import MOST_CAREFUL
from ..cache.stand_ins.hyca import SOLVERS
from .attention_plan import WAYS as ATTENTION_WAYS
from .fits.clusters import descriptors, fit_clusters, fit_solvers
from .fits.curves import fit_curve
from .fits.linear_maps import fit_linear_map
from .fits.magnitudes import fit_magnitudes
from .fits.polynomial import fit_polynomial
from .fits.scales import fit_scales
from .fits.settled import fit_impacts, fit_theta
from .fits.trajectory import fit_curvature, fit_gamma
from .records import Records

DIGITS = 6

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
    """Changes of the conditional pass's blocks at every step, those of step 0 first."""
    curves = []
    for name in records.names("block/l1/0/"):
        block = name.rsplit("/", 1)[1]
        sums = (records.numerators(f"block/{norm}/0/{block}") for norm in ("l1", "size"))
        curves.append(fit_curve(*sums))
    return {"curves": _short(change for step in zip(*curves, strict=True) for change in step)}


def _mixcache(records: Records) -> Values:
    """theta, and the impacts I of each mode: constants of step and cfg, of blocks step by step."""
    values: Values = {"theta": fit_theta(records.ratios("velocity/l1"))}
    for mode in ("step", "cfg"):
        if records.has(name := f"impacts/{mode}"):
            values[f"I_{mode}"] = float(np.mean(fit_impacts(records.stack(name))[1:]))
    blocks = [fit_impacts(records.stack(each)) for each in records.names("impacts/block ")]
    if blocks:
        values["I_block"] = _short(impact for step in zip(*blocks, strict=True) for impact in step)
    return values


def _hyca(records: Records) -> Values:
    """The solver of each channel, that of its cluster."""
    clusters = fit_clusters(descriptors(records.mean("channels/moves")))
    solvers = fit_solvers(records.mean("channels/errors"), clusters, tuple(SOLVERS))
    return {"solvers": tuple(solvers[cluster] for cluster in clusters)}


def _feb_cache(records: Records) -> Values:
    """Errors of the output of each step where branches are those of the step before."""
    errors = {each: records.mean(f"branches/{each}")[1:] for each in ("attention", "both")}
    return {f"{name}_errors": _short([0.0, *each]) for name, each in errors.items()}


def _ertacache(records: Records) -> Values:
    """The error and the scale of each step against each before it: (1, 0), (2, 0), (2, 1), ..."""
    later = np.tril_indices(len(records.of_prompts[0]["residual/size"]), -1)
    errors = records.sum("residual/pairs") / records.sum("residual/size")[None, :]
    return {
        "errors": _short(errors[later]),
        "scales": _short(fit_scales(records.sum("residual/products"))[later]),
    }


def _omnicache(records: Records) -> Values:
    """Curvature and gamma by step; gamma from 0 to 1 (a choice: an error does not grow)."""
    gamma = np.clip(fit_gamma(records.sum("path/products")), 0, 1)
    curvature = fit_curvature(records.stack("path/curvature"))
    return {"curvature": _short(curvature), "gamma": _short(gamma)}


def _ditfastattn(records: Records) -> Values:
    """The plan that is good enough for every prompt, each of which has its own.

    Choice: of a step and block the most careful way of all prompts.
    """
    ways = records.stack(ATTENTION_WAYS).max(0).astype(int)
    return {"plan": tuple(tuple(MOST_CAREFUL[way] for way in of_step) for of_step in ways)}


def _changes(records: Records) -> Values:
    """Relative changes that belong to no method: of the output, and of guidance, by step."""
    values = {"velocity": _short([0.0, *records.ratios("velocity/l1").mean(0)[1:]])}
    if records.passes == 2:
        values["guidance"] = _short(records.ratios("guidance/l1").mean(0))
    return values


def _short(numbers: Iterable[float]) -> tuple[float, ...]:
    """`numbers` to six digits: files of many are smaller, and a sum of prompts is no more exact."""
    return tuple(float(f"{each:.{DIGITS}g}") for each in numbers)


FITS: dict[str, Fit] = {
    "teacache": Fit("modulated/l1/0", _teacache),
    "magcache": Fit("residual/row_size/0", _magcache),
    "block-caching": Fit("block/l1/0/0", _block_caching),
    "mixcache": Fit("velocity/l1", _mixcache),
    "hyca": Fit("channels/errors", _hyca),
    "feb-cache": Fit("branches/both", _feb_cache),
    "ertacache": Fit("residual/pairs", _ertacache),
    "omnicache": Fit("path/products", _omnicache),
    "ditfastattn": Fit(ATTENTION_WAYS, _ditfastattn),
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
    """FastCache's `fastcache.weight [blocks + 1, C, C]` and `fastcache.bias [blocks + 1, C]`, fp32.

    The last map is of all blocks together.
    """
    names = records.names("map/")
    if not names:
        return {}
    maps = [fit_linear_map(records.sum(name)) for name in names]
    kinds = ("weight", "bias")
    return {
        f"fastcache.{kind}": torch.from_numpy(np.stack(each)).float()
        for kind, each in zip(kinds, zip(*maps, strict=True), strict=True)
    }
