"""Exchanges over gloo: what was scattered comes back bit by bit; refusals are one line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from disca_rt.parallel._native import Partition, token_shard
from parallel.launch import forked, passes

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 3, 5])
def test_what_is_exchanged_comes_back(ranks: int) -> None:
    passes(forked(ranks, HERE / "exchange_worker.py"))


@pytest.mark.slow
def test_a_scheduler_may_outlive_its_group() -> None:
    passes(forked(1, HERE / "outliving_worker.py"))


@pytest.mark.slow
def test_an_attention_may_outlive_its_group() -> None:
    passes(forked(2, HERE / "forgotten_worker.py"))


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
        ({"img_tokens": 2**63 - 1}, "img_tokens must be from 1 to 1000000000, got 9223372036"),
        ({"img_tokens": 2, "txt_tokens": 1}, "ranks must be at most the 3 tokens, got 4"),
        ({"ranks": 37, "heads": 8}, r"nearest legal are.* 36 \(ring steps 8, "),
        ({"ulysses_degree": 3}, r"must divide the 4 ranks .* legal are.* 2 \(ring steps 1, "),
    ],
)
def test_illegal_partitions_say_what_is_legal(changes: dict[str, int], message: str) -> None:
    request = {"img_tokens": 100, "txt_tokens": 5, "heads": 8, "ranks": 4} | changes
    with pytest.raises(ValueError, match=message):
        Partition(**request)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: token_shard(-5, 0, 2, 1), "img_tokens must be from 1 to 1000000000, got -5"),
        (lambda: token_shard(10, -1, 2, 1), "txt_tokens must be from 0 to 1000000000, got -1"),
        (lambda: token_shard(10, 0, 0, 0), "ranks must be at least 1, got 0"),
    ],
)
def test_counts_out_of_range_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
