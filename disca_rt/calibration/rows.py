"""Sampled rows of the hidden state, reduced to the numbers that fits need. Pure functions."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..cache.stand_ins.hyca import SOLVERS, Distance, Weights

INTERVAL = 3  # steps between those that forecasts are made from; a choice


def residual_numbers(residuals: Tensor) -> dict[str, Tensor]:
    """The distances of residuals `[steps, ...]` of all pairs of steps, and their products.

    "residual/pairs" Σ|r_s − r_j| and "residual/products" r_s·r_j, `[steps, steps]`;
    "residual/size" Σ|r_s| `[steps]`.
    """
    r = residuals.flatten(1)
    pairs = torch.stack([(r - each).abs().sum(1) for each in r])
    return {
        "residual/pairs": pairs,
        "residual/products": r @ r.T,
        "residual/size": r.abs().sum(1),
    }


def channel_numbers(hidden: Tensor) -> dict[str, Tensor]:
    """How each channel of `hidden [steps, B, rows, C]` moves, and how well solvers forecast it.

    "channels/moves" `[2, C]`: means of |d1| and |d2|, its first and second differences over steps;
    "channels/errors" `[solvers, C]`: mean squared errors. Empty where there are too few steps.
    """
    paths = hidden.flatten(1, -2)  # [steps, rows, C]
    first = paths.diff(dim=0)
    moves = [each.abs().mean((0, 1)) for each in (first, first.diff(dim=0))]
    numbers = {} if len(paths) < 3 else {"channels/moves": torch.stack(moves)}
    if len(paths) >= 2 * INTERVAL + 2:
        numbers["channels/errors"] = _errors(paths)
    return numbers


def _errors(paths: Tensor) -> Tensor:
    """Mean squared errors `[solvers, C]` of HyCa's solvers, where three values were kept."""
    return torch.stack([_errors_of(weights, paths) for weights in SOLVERS.values()])


def _errors_of(weights: Callable[[Distance], Weights], paths: Tensor) -> Tensor:
    """Those of one solver `[C]`, over the steps between kept ones."""
    kept: list[Tensor] = []
    before, errors = paths[0], []  # the value of the step before the last kept one

    def forecast(step: int) -> Tensor:
        if not step % INTERVAL:
            return kept[0]
        at = Distance(step % INTERVAL, INTERVAL, len(kept))
        terms = zip(weights(at), (*_differences(kept), before), strict=True)
        return sum(weight * term for weight, term in terms)

    for step, value in enumerate(paths):
        if step % INTERVAL == 0:
            before = forecast(step - 1) if kept else value
            kept = [value, *kept[:2]]
        elif len(kept) == 3:
            errors.append((forecast(step) - value).square().mean(0))
    return torch.stack(errors).mean(0)


def _differences(kept: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The divided differences of order 0, 1 and 2, newest value first; 0 where too few are kept."""
    f0, f1, f2 = (*kept, *(kept[-1],) * (3 - len(kept)))
    first, before = (f0 - f1) / INTERVAL, (f1 - f2) / INTERVAL
    return f0, first, (first - before) / INTERVAL
