"""FEB-Cache's table: which branches a step reuses, by the error that it makes."""

import numpy as np

COMPUTE, ATTENTION, BOTH = 0, 1, 2
"""States of a step: all computed, attention reused, attention and MLP reused."""


def fit_branch_table(attention: np.ndarray, both: np.ndarray, budget: float) -> tuple[int, ...]:
    """The state of each step: the one that saves most while errors since it was computed add up.

    `attention` and `both` are the errors `[steps]` of the output where the branches are those of
    the step before. Errors of steps since a branch was computed add up to at most `budget` (a
    choice: the paper searches by the final error and gives no bound).
    """
    states, since_attention, since_both = [COMPUTE], 0.0, 0.0
    for step in range(1, len(both)):
        since_attention += attention[step]
        since_both += both[step]
        if since_both <= budget:
            states.append(BOTH)
        elif since_attention <= budget:
            states.append(ATTENTION)
            since_both = since_attention  # the attention is still the old one
        else:
            states.append(COMPUTE)
            since_attention = since_both = 0.0
    return tuple(states)


def median_budget(both: np.ndarray) -> float:
    """The budget that lets about every other step reuse: the median error (a choice)."""
    known = both[np.isfinite(both)]
    return float(np.median(known)) if len(known) else 0.0
