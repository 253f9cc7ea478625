"""ERTACache's scales (arXiv 2508.21091): a residual's error as a multiple of the kept one."""

import numpy as np


def fit_scales(products: np.ndarray) -> np.ndarray:
    """The k of steps s and j, for which k·r_j is nearest to r_s − r_j by least squares.

    `products [steps, steps]` are r_s·r_j, summed over prompts; so is the result. 0 of a residual
    that is zero.
    """
    sizes = np.diag(products)
    changes = products - sizes[None, :]
    return np.divide(changes, sizes[None, :], out=np.zeros_like(changes), where=sizes > 0)
