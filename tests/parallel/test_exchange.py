"""Exchanges over gloo: what was scattered comes back bit by bit, and plans are refused in words."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from disca_rt.parallel._native import Plan, legal_world_sizes, token_shard

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("exchange_worker.py")


def torchrun(ranks: int, *command: str | Path) -> subprocess.CompletedProcess:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.run(
        [sys.executable, "-W", "ignore", *launch, *map(str, command)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_what_is_exchanged_comes_back(ranks: int) -> None:
    done = torchrun(ranks, WORKER)
    assert done.returncode == 0, done.stderr[-4000:]


def test_every_token_is_on_one_rank() -> None:
    shards = [token_shard(37, 5, 4, rank) for rank in range(4)]
    for stream, count in (("img", 37), ("txt", 5)):
        spans = [getattr(shard, stream) for shard in shards]
        starts = [0, *(span.stop for span in spans)]
        assert starts == [*(span.start for span in spans), count]
    assert {shard.tokens for shard in shards} == {10, 11}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranks": 0}, "ranks must be at least 1, got 0"),
        ({"img_tokens": 3}, "ranks must be at most the 3 image tokens, got 4"),
        ({"ranks": 37, "heads": 8}, "legal numbers are"),
        ({"ulysses_degree": 3}, "must divide the 4 ranks .* legal are 1, 2, 4"),
    ],
)
def test_illegal_plans_say_what_is_legal(changes: dict[str, int], message: str) -> None:
    request = {"img_tokens": 100, "txt_tokens": 5, "heads": 8, "ranks": 4} | changes
    with pytest.raises(ValueError, match=message):
        Plan(**request)


def test_legal_world_sizes() -> None:
    sizes = legal_world_sizes(heads=8, ranks_per_node=8, most=20)
    assert sizes[:8] == list(range(1, 9))
    assert 16 in sizes
    assert 11 not in sizes
