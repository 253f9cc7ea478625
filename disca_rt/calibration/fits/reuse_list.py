"""ERTACache's list and scales (arXiv 2508.21091): reuse while the residual is near."""

import numpy as np


def fit_reuse_list(errors: np.ndarray, threshold: float) -> tuple[int, ...]:
    """The full steps: greedily, a step is reused while `errors[s, j]` is below `threshold`.

    `errors [steps, steps]` are D1(r_s, r_j), j the last full step before s.
    """
    full = [0]
    for step in range(1, len(errors)):
        if not errors[step, full[-1]] < threshold:
            full.append(step)
    return tuple(full)


def fit_scales(products: np.ndarray, full_steps: tuple[int, ...]) -> tuple[float, ...]:
    """k_s of each step, for which k_s·r_j is nearest to r_s − r_j by least squares; 0 if full.

    `products [steps, steps]` are r_s·r_j, summed over prompts.
    """
    scales, last = [], 0
    for step in range(len(products)):
        last = step if step in full_steps else last
        size = products[last, last]
        change = products[step, last] - size
        scales.append(float(change / size) if size else 0.0)
    return tuple(scales)
