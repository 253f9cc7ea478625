"""Fits of recorded numbers, against cases whose answers are known by hand."""

import numpy as np
import pytest

from disca_rt.calibration.fits.clusters import descriptors, fit_clusters, fit_solvers
from disca_rt.calibration.fits.curves import fit_curve
from disca_rt.calibration.fits.linear_maps import chi_square_bound, fit_linear_map
from disca_rt.calibration.fits.magnitudes import fit_magnitudes
from disca_rt.calibration.fits.polynomial import fit_polynomial
from disca_rt.calibration.fits.scales import fit_scales
from disca_rt.calibration.fits.settled import fit_impacts, fit_theta
from disca_rt.calibration.fits.trajectory import fit_curvature, fit_gamma

NAN = float("nan")
TEACACHE = [733.226126, -401.131952, 67.5869174, -3.149878, 0.0961237896]


def test_a_polynomial_is_found_again() -> None:
    x = np.array([NAN, *np.linspace(0.01, 0.3, 30)])
    assert fit_polynomial(x, np.polyval(TEACACHE, x)) == pytest.approx(TEACACHE, rel=1e-6)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([0.1], [0.4], [0, 0, 0, 0, 0.4]),
        ([0.1, 0.2], [0.4, 0.6], [0, 0, 0, 2.0, 0.2]),
        ([0.1, 0.1], [0.4, 0.6], [0, 0, 0, 0, 0.5]),
    ],
)
def test_a_polynomial_of_few_changes_is_of_a_lower_degree(x, y, expected) -> None:
    assert fit_polynomial(np.array(x), np.array(y)) == pytest.approx(expected)


def test_a_polynomial_needs_a_change() -> None:
    with pytest.raises(ValueError, match="at least two steps"):
        fit_polynomial(np.array([NAN]), np.array([NAN]))


def test_magnitudes_are_means_over_prompts_after_a_one() -> None:
    ratios = np.array([[NAN, 1.1, 0.900002], [NAN, 1.3, 0.9]])
    assert fit_magnitudes(ratios) == (1.0, 1.2, 0.9)


def test_a_curve_is_change_over_size_of_its_own_step() -> None:
    changes, sizes = np.array([[NAN, 1.0, 3.0], [NAN, 2.0, 1.0]]), np.array([[9, 2.0, 4.0]] * 2)
    assert fit_curve(changes, sizes) == pytest.approx((0.0, 0.75, 0.5))
    assert fit_curve(np.array([[NAN, 0.0]]), np.array([[1.0, 0.0]])) == (0.0, 0.0)


def test_theta_is_the_mean_after_changes_have_settled() -> None:
    falling = np.array([[NAN, 0.9, 0.5, 0.1, 0.1, 0.3]])  # at most the median, 0.3, from the third
    assert fit_theta(falling) == pytest.approx((0.1 + 0.1 + 0.3) / 3)
    with pytest.raises(ValueError, match="at least two steps"):
        fit_theta(falling[:, :1])
    assert fit_impacts(np.array([[NAN, 1.0], [NAN, 3.0]])) == (0.0, 2.0)


def test_scales_take_the_residual_of_one_step_to_that_of_another() -> None:
    r = np.array([[1.0, 2.0], [1.1, 2.2], [3.0, 0.0], [1.5, 7.0], [0.0, 0.0]])
    scales = fit_scales(r @ r.T)
    assert scales[1, 0] == pytest.approx(0.1)
    assert scales[3, 2] == pytest.approx(-0.5)
    assert scales[2, 4] == 0


def test_gamma_carries_the_noise_of_a_cache_to_the_next_step() -> None:
    steps = [np.array([1.0, 0.0]) * 0.5**i for i in range(4)]
    v = np.cumsum([np.array([3.0, 4.0]), *steps], axis=0)  # each change is half of the one before
    assert fit_gamma(v @ v.T) == pytest.approx((1.0, 0.5, 0.5, 0.5, 1.0))
    assert fit_gamma(np.ones((3, 3))) == (1.0, 1.0, 1.0)
    assert fit_curvature(np.array([[NAN, 1.0], [NAN, 2.0]])) == (0.0, 1.5)


def test_channels_that_move_alike_are_one_cluster() -> None:
    smooth, rough = np.array([[1.0], [0.01]]), np.array([[1.0], [2.0]])
    moves = np.concatenate([smooth, rough, smooth, rough, rough], axis=1)
    clusters = fit_clusters(descriptors(moves), 2)
    assert len({*clusters[[0, 2]]}) == len({*clusters[[1, 3, 4]]}) == 1
    assert clusters[0] != clusters[1]
    assert fit_clusters(descriptors(moves), 9).max() == 1, "no more clusters than points"
    errors = np.array([[1.0, 9, 1, 9, 9], [2.0, 3, 2, 3, 3], [0.5, 20, 3, 20, 20]])
    solvers = fit_solvers(errors, clusters, ("a", "b", "c"))
    assert [solvers[clusters[0]], solvers[clusters[1]]] == ["a", "b"]


def test_a_linear_block_is_its_map() -> None:
    rng = np.random.default_rng(0)
    weight, bias, x = rng.normal(size=(3, 3)), rng.normal(size=3), rng.normal(size=(50, 3))
    inputs = np.concatenate([x, np.ones((50, 1))], axis=1)
    sums = np.concatenate([inputs.T @ inputs, (x @ weight.T + bias).T @ inputs])
    found, offset = fit_linear_map(sums)
    assert found == pytest.approx(weight, abs=1e-4)
    assert offset == pytest.approx(bias, abs=1e-4)


def test_a_linear_map_leaves_what_it_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [rng.normal(size=(50, 2)), np.zeros((50, 1))], axis=1
    )  # nothing in the third
    inputs = np.concatenate([x, np.ones((50, 1))], axis=1)
    weight, offset = fit_linear_map(np.concatenate([inputs.T @ inputs, (2 * x + 1).T @ inputs]))
    assert weight @ [1, 1, 5] + offset == pytest.approx([3, 3, 6], abs=1e-3)


@pytest.mark.parametrize(("degrees", "quantile"), [(10, 18.307), (100, 124.342), (1000, 1074.68)])
def test_the_bound_is_the_quantile_of_chi_square(degrees: int, quantile: float) -> None:
    assert chi_square_bound(0.05, degrees) * degrees == pytest.approx(quantile, rel=1e-3)


def test_the_bound_is_one_at_the_tokens_of_a_video() -> None:
    assert chi_square_bound(0.05, 197_000_000) == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(ValueError, match="alpha"):
        chi_square_bound(0.0, 3)
    with pytest.raises(ValueError, match="degrees"):
        chi_square_bound(0.1, 0)
