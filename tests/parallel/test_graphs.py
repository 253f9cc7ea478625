"""Steps that ranks share are captured between their exchanges."""

from pathlib import Path

import pytest

from parallel.launch import passes


@pytest.mark.slow
def test_captured_samples_are_eager_ones() -> None:
    passes(2, Path(__file__).parent / "graph_worker.py")
