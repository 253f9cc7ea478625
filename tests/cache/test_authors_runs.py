"""Each method against runs of its authors' code: the same full steps, latents to 1e-4 in fp32."""

from collections.abc import Callable
from typing import Any

import pytest

from authors_runs import load_run, names, sample
from golden_vectors import relative_error


def as_text(options: dict[str, Any]) -> str:
    """Options under our names, as a policy's text has them."""
    values = {k: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in options.items()}
    return ",".join(f"{key}={value}" for key, value in values.items())


TEXTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "uncached": lambda options: "full",
    "fastercache": lambda options: f"fastercache:{as_text(options)}",
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
