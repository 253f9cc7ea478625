"""Profile of several ranks: the first one's."""

import json
from pathlib import Path

import pytest

from parallel.launch import forked, passes


@pytest.mark.slow
def test_collectives_are_in_the_table_of_the_first_rank(tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = ["--steps", "2", "--step-list", "0", "--size", "16x8x3", "--out", str(out)]
    output = passes(forked(2, "-m", "disca_rt", "profile", *flags))
    assert output.count("wrote ") == 4
    lines = [json.loads(line) for line in (out / "table.jsonl").read_text().splitlines()]
    named = {(line["kind"], line["class"]): line for line in lines}
    assert named["full", "all"]["ranks"] == 2
    for kind in ("full", "predicted"):
        assert named[kind, "collective"]["calls"] > 0
        assert named[kind, "rms_norm_rope_send"]["calls"] > 0
