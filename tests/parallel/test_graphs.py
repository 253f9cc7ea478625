"""Steps that ranks share are captured between their exchanges."""

from pathlib import Path

import pytest

from parallel.launch import forked, passes


@pytest.mark.slow
def test_captured_samples_are_eager_ones() -> None:
    passes(forked(2, Path(__file__).parent / "graph_worker.py"))
