"""MixCache's theta: the change of the output once it has settled."""

import numpy as np


def fit_theta(changes: np.ndarray) -> float:
    """The mean of `changes [prompts, steps]` of the output after they settle.

    A prompt's changes settle at the first step that is no larger than their median (a choice: the
    paper gives no rule). ValueError for fewer than two steps.
    """
    known = changes[:, 1:]
    if not known.shape[1]:
        raise ValueError("theta needs a sample of at least two steps")
    settled = [row[np.argmax(row <= np.median(row)) :].mean() for row in known]
    return float(np.mean(settled))


def fit_impacts(errors: np.ndarray) -> tuple[float, ...]:
    """The mean over prompts of `errors [prompts, steps]`; the first step, without a cache, is 0."""
    return (0.0, *errors[:, 1:].mean(0).tolist())
