"""OmniCache's curvature and gamma (arXiv 2508.16212), from the path of the latents."""

import numpy as np


def fit_curvature(curvature: np.ndarray) -> tuple[float, ...]:
    """The mean over prompts of `curvature [prompts, steps]`; the first step's is 0."""
    return (0.0, *curvature[:, 1:].mean(0).tolist())


def fit_gamma(products: np.ndarray) -> tuple[float, ...]:
    """gamma_s of each step, for which gamma_s·q_s is nearest to q_(s+1) by least squares.

    q_s = v_(s−1) − v_s is the noise of a cache that is one step old (a choice). `products [steps,
    steps]` are v_s·v_t, summed over prompts. Where no q is known, gamma is 1.
    """
    steps = len(products)
    change = np.eye(steps, k=-1) - np.eye(steps)  # row s: v_(s−1) − v_s
    noise = change @ products @ change.T
    gamma = np.ones(steps)
    for step in range(1, steps - 1):
        if noise[step, step] > 0:
            gamma[step] = noise[step + 1, step] / noise[step, step]
    return tuple(gamma.tolist())
