"""FastCache's linear maps: a block as a matrix, and the bound of its test."""

from statistics import NormalDist

import numpy as np

RIDGE = 1e-6  # of the mean diagonal: few rows leave directions that no input had


def fit_linear_map(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weight `[C, C]` and bias `[C]` of y = W·x + b nearest to a block's output.

    `sums [2C + 1, C + 1]` are the normal equations: Σ(x, 1)(x, 1)ᵀ, and below it Σy(x, 1)ᵀ. It is
    the change y − x that is fitted, so that what no input had is left as it is.
    """
    width = sums.shape[1]
    inputs, changes = sums[:width], sums[width:] - sums[: width - 1]
    ridge = RIDGE * np.trace(inputs) / width
    solved = np.linalg.solve(inputs + ridge * np.eye(width), changes.T).T
    return np.eye(width - 1) + solved[:, :-1], solved[:, -1]


def chi_square_bound(alpha: float, degrees: int) -> float:
    """The (1 − alpha) quantile of chi² over its `degrees`, to three digits (Wilson and Hilferty).

    It falls to 1 as degrees grow: at the 10⁸ of a video's tokens a change of the tokens' whole
    size passes, which is why the authors' rule always reuses there.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    if degrees < 1:
        raise ValueError(f"degrees must be at least 1, got {degrees}")
    part = 2 / (9 * degrees)
    return (1 - part + NormalDist().inv_cdf(1 - alpha) * part**0.5) ** 3
