"""Curves of relative change over steps, as Block Caching refreshes by (arXiv 2312.03209)."""

import numpy as np


def fit_curve(changes: np.ndarray, sizes: np.ndarray) -> tuple[float, ...]:
    """L1rel of each step: Σ|C_s − C_(s−1)| over Σ|C_s|, the mean over prompts.

    `changes` and `sizes` are these sums, `[prompts, steps]`; the first step's value is 0,
    and that of a part that is zero.
    """
    change, size = changes[:, 1:], sizes[:, 1:]
    relative = np.divide(change, size, out=np.zeros_like(change), where=size > 0)
    return (0.0, *relative.mean(0).tolist())
