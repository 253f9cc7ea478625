"""Each method against runs of its authors' code: the same full steps, latents to 1e-4 in fp32."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from authors_runs import load_run, names, sample
from golden_vectors import relative_error


def with_options(name: str) -> Callable[[Mapping[str, Any]], str]:
    """The text of policy `name` with a run's options."""
    return lambda options: f"{name}:" + ",".join(f"{key}={options[key]}" for key in options)


TEXTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "uncached": lambda options: "full",
    "taylorseer": with_options("taylorseer"),
    "taylorseer-hidden": with_options("taylorseer-hidden"),
    "taylorseer-attention": with_options("taylorseer-attention"),
    "taylorseer-lite": with_options("taylorseer-lite"),
    "speca": with_options("speca"),
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
