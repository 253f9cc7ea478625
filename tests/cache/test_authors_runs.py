"""Each method against runs of its authors' code: the same full steps, latents to 1e-4 in fp32."""

from collections.abc import Callable
from typing import Any

import pytest

from authors_runs import load_run, names, sample
from golden_vectors import relative_error


def as_text(name: str, options: dict[str, Any]) -> str:
    """A policy's text with the authors' options as they are."""
    values = {
        key: ",".join(map(str, value)) if isinstance(value, list) else value
        for key, value in options.items()
    }
    return f"{name}:" + ",".join(f"{key}={value}" for key, value in values.items())


TEXTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "uncached": lambda options: "full",
    "teacache": lambda options: as_text("teacache", options),
    "magcache": lambda options: as_text("magcache", options),
    "easycache": lambda options: as_text("easycache", options),
    "dicache": lambda options: as_text("dicache", options),
    "teacache-1.5": lambda options: as_text("teacache-1.5", options),
    "taylorcache-1.5": lambda options: as_text("taylorcache-1.5", options),
    "deepcache-1.5": lambda options: as_text("deepcache-1.5", options),
}
"""The policy's text by method, from the options of a run of the authors' code."""


@pytest.mark.parametrize(
    ("method", "run"), [(method, run) for method in TEXTS for run in names(method)]
)
def test_full_steps_and_latents_are_the_authors(method: str, run: str) -> None:
    theirs = load_run(run)
    ours = sample(TEXTS[method](theirs.options), theirs.schedule)
    assert ours.full_steps == theirs.facts["full_steps"]
    assert relative_error(ours.latents, theirs.latents) <= 1e-4
