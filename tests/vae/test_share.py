"""Tiles shared over ranks: the first rank's video is one rank's, bitwise."""

from pathlib import Path

import pytest

from parallel.launch import forked, passes


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_decode_as_one(ranks: int) -> None:
    output = passes(forked(ranks, Path(__file__).with_name("share_worker.py")))
    assert output.count("SAME") == ranks
