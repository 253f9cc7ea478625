"""HyCa's clusters (arXiv 2510.04188): channels that move alike, and the solver that suits each."""

import numpy as np

CLUSTERS = 8
ITERATIONS = 50


def descriptors(moves: np.ndarray) -> np.ndarray:
    """Acceleration and curvature ratio of each channel `[C, 2]`, from `moves [2, C]`.

    With d1 and d2 the means of the first and second differences' sizes: d2/d1 and
    d2/(1 + d1²)^1.5 (a choice of form). Scaled to deviation 1, so that both count alike.
    """
    d1, d2 = moves
    both = np.stack([d2 / np.maximum(d1, 1e-12), d2 / (1 + d1**2) ** 1.5], axis=1)
    deviation = both.std(0)
    return (both - both.mean(0)) / np.where(deviation > 0, deviation, 1)


def fit_clusters(points: np.ndarray, clusters: int = CLUSTERS) -> np.ndarray:
    """The cluster of each of `points [C, D]` by k-means, the same each time.

    Centres begin at points far apart: the one nearest the mean, then the one furthest from all.
    """
    clusters = min(clusters, len(np.unique(points, axis=0)))
    centres = [points[np.argmin(((points - points.mean(0)) ** 2).sum(1))]]
    while len(centres) < clusters:
        centres.append(points[np.argmax(_distances(points, np.stack(centres)).min(1))])
    found, centres = np.full(len(points), -1), np.stack(centres)
    for _ in range(ITERATIONS):
        nearest = _distances(points, centres).argmin(1)
        if (nearest == found).all():
            break
        found = nearest
        for cluster in set(found.tolist()):
            centres[cluster] = points[found == cluster].mean(0)
    return found


def fit_solvers(
    errors: np.ndarray, cluster_of: np.ndarray, names: tuple[str, ...]
) -> tuple[str, ...]:
    """The name of the solver with the smallest error in each cluster.

    `errors [solvers, C]` are mean squared errors of the solvers called `names`.
    """
    clusters = range(int(cluster_of.max()) + 1)
    sums = [errors[:, cluster_of == cluster].sum(1) for cluster in clusters]
    return tuple(names[int(np.argmin(each))] for each in sums)


def _distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return ((points[:, None] - centres[None]) ** 2).sum(2)
