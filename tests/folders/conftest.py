"""Small pipelines of both models, and the folders that they are written to, each once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import folder_writers
import small_parts

PIPELINES = {
    "1.0": small_parts.pipeline_10,
    "1.5": small_parts.pipeline_15,
    "1.5 images": small_parts.pipeline_15_image,
}
WRITERS = {
    "1.0": folder_writers.WRITERS_10,
    "1.5": folder_writers.WRITERS_15,
    "1.5 images": folder_writers.WRITERS_15,
}
Written = Callable[[str, str], Path]


@pytest.fixture(scope="session")
def pipeline() -> Callable[[str], Any]:
    """Pipeline of a model of `PIPELINES`."""
    return cache(lambda model: PIPELINES[model]())


@pytest.fixture(scope="session")
def written(pipeline: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The folder of a model in a layout; not to be changed."""

    @cache
    def write(model: str, layout: str) -> Path:
        folder = tmp_path_factory.mktemp(f"{model} {layout}".replace(" ", "-"))
        return WRITERS[model][layout](pipeline(model), folder)

    return write
