"""Fixtures of the loader's tests: one thread, golden checkpoints to rewrite in other layouts."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from golden_vectors import NAMES, Golden, load_golden


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", params=NAMES)
def vectors(request: pytest.FixtureRequest) -> Golden:
    """The reference vectors of each model in turn."""
    return load_golden(request.param)


@pytest.fixture(scope="session")
def vectors_10() -> Golden:
    return load_golden("hyvideo10")


@pytest.fixture
def folder(tmp_path: Path, vectors_10: Golden) -> Path:
    """An empty folder but for the 1.0 reference model's config.json."""
    shutil.copy(vectors_10.folder / "config.json", tmp_path)
    return tmp_path
