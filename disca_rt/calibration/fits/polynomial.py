"""TeaCache's polynomial (arXiv 2411.19108): change of the output over change of what goes in."""

import numpy as np

DEGREE = 4


def fit_polynomial(inputs: np.ndarray, outputs: np.ndarray) -> tuple[float, ...]:
    """The coefficients of the least-squares polynomial of `outputs` over `inputs`, highest first.

    Both are the relative changes of all steps of all prompts, in one row. Of fewer than five
    distinct changes the degree is one less than their number, and the highest coefficients are 0.
    ValueError where there are none.
    """
    known = np.isfinite(inputs) & np.isfinite(outputs)
    x, y = inputs[known], outputs[known]
    if not len(x):
        raise ValueError("a polynomial needs a sample of at least two steps")
    degree = min(DEGREE, len(np.unique(x)) - 1)
    powers = np.vander(x, degree + 1)
    scales = np.abs(powers).max(0)  # changes are small: their fourth powers all but vanish
    scales[scales == 0] = 1
    coefficients = np.linalg.lstsq(powers / scales, y, rcond=None)[0] / scales
    return (0.0,) * (DEGREE - degree) + tuple(coefficients.tolist())
