"""Sampled rows of the hidden state, reduced to the numbers that fits need. Pure functions."""

import torch
from torch import Tensor

INTERVAL = 3  # steps between those that forecasts are made from; a choice
SOLVERS = "reuse", "taylor-1", "taylor-2", "foca"
"""Forecasts of a channel. Adams-Bashforth of order 2 is "taylor-1" where steps are even."""


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
    """Mean squared errors of each solver `[solvers, C]`, over all steps between kept ones."""
    errors = []
    for now in range(2 * INTERVAL, len(paths), INTERVAL):
        kept = [paths[now - back * INTERVAL] for back in range(3)]
        for ahead in range(1, min(INTERVAL, len(paths) - now)):
            true = paths[now + ahead]
            errors.append([(each - true).square().mean(0) for each in forecasts(kept, ahead)])
    return torch.stack([torch.stack(each) for each in errors]).mean(0)


def forecasts(kept: list[Tensor], ahead: int) -> list[Tensor]:
    """The value `ahead` steps on by each of `SOLVERS`, from the last three kept, newest first."""
    f0, before, oldest = kept
    f1 = (f0 - before) / INTERVAL
    f2 = (f1 - (before - oldest) / INTERVAL) / INTERVAL
    taylor = f0 + ahead * f1
    predicted = 4 / 3 * f0 - 1 / 3 * before + 2 / 3 * ahead * f1  # FoCa's, then Heun's correction
    corrected = f0 + (ahead * f1 + predicted - f0) / 2
    return [f0, taylor, taylor + ahead**2 / 2 * f2, corrected]
