"""MagCache's ratios (arXiv 2506.09045): how the residual's length changes from step to step."""

import numpy as np

PLACES = 5  # decimals, as the authors' calibration prints them


def fit_magnitudes(ratios: np.ndarray) -> tuple[float, ...]:
    """The mean over prompts of `ratios [prompts, steps]`, each the mean over tokens of a step.

    A ratio is |r_s|₂/|r_(s−1)|₂ of a token's residual; the first step's is 1.
    """
    means = ratios[:, 1:].mean(0)
    return (1.0, *(round(float(each), PLACES) for each in means))
