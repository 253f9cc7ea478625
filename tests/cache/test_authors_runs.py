"""Each method against runs of its authors' code: the same full steps, latents to 1e-4 in fp32."""

from collections.abc import Callable
from typing import Any

import pytest

from authors_runs import load_run, names, sample
from golden_vectors import relative_error

SAME_NAMES = (
    "fora",
    "pab",
    "teacache",
    "magcache",
    "easycache",
    "dicache",
    "fastercache",
    "teacache-1.5",
    "taylorcache-1.5",
    "deepcache-1.5",
    "taylorseer",
    "taylorseer-hidden",
    "taylorseer-attention",
    "taylorseer-lite",
    "speca",
)

TEXTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "uncached": lambda options: "full",
    **{name: lambda options, name=name: f"{name}:{joined(options)}" for name in SAME_NAMES},
    "firstblockcache": lambda options: f"fbcache:threshold={options['threshold']}",
    "dbcache": lambda options: f"dbcache:{joined(_calibrated(options))}",
    "profilingdit": lambda options: f"profilingdit:{joined(options)}",
}
"""The policy's text by method, from the options of a run of the authors' code."""


def joined(options: dict[str, Any]) -> str:
    """The options of a policy as text; None is left out."""
    texts = {key: value for key, value in options.items() if value is not None}
    return ",".join(
        f"{key}={','.join(map(str, each)) if isinstance(each, list) else each}"
        for key, each in texts.items()
    )


def _calibrated(options: dict[str, Any]) -> dict[str, Any]:
    """The options of DBCache, whose calibrator is named with its order."""
    if options.get("calibrator") == "taylorseer order 1":
        return options | {"calibrator": "taylorseer", "taylorseer_order": 1}
    return options


@pytest.mark.parametrize(
    ("method", "run"), [(method, run) for method in TEXTS for run in names(method)]
)
def test_full_steps_and_latents_are_the_authors(method: str, run: str) -> None:
    theirs = load_run(run)
    ours = sample(TEXTS[method](theirs.options), theirs.schedule)
    assert ours.full_steps == theirs.facts["full_steps"]
    assert relative_error(ours.latents, theirs.latents) <= 1e-4


@pytest.mark.parametrize("run", [*names("dbcache"), *names("profilingdit")])
def test_double_and_single_blocks_are_computed_in_the_authors_steps(run: str) -> None:
    theirs = load_run(run)
    ours = sample(TEXTS[theirs.facts["method"]](theirs.options), theirs.schedule)
    assert ours.steps_that_compute(0) == theirs.facts["double_full"]
    assert ours.steps_that_compute(1) == theirs.facts["single_full"]
