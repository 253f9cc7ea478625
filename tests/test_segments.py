"""Captures around work that no capture can hold."""

import pytest
import torch
from torch import Tensor

from disca_rt.graphs.between import between_graphs
from disca_rt.graphs.runner import CaptureError, GraphRunner
from disca_rt.graphs.segments import Segments
from recorded import record

CPU = torch.device("cpu")


class Exchange:
    """Something between two segments: its sum so far is its own."""

    def __init__(self) -> None:
        self.sums: list[float] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.sums.append(float(x.sum()))
        return x.flip(0)  # a new tensor each time

    def step(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = between_graphs(self, x * 2) + 1
        return x


def test_without_a_capture_it_is_a_call() -> None:
    exchange = Exchange()
    assert exchange.step(torch.tensor([1.0, 2.0])).tolist() == [7.0, 11.0]
    assert exchange.sums == [6.0, 16.0]


def test_it_is_done_again_at_each_replay_with_what_is_there_then() -> None:
    exchange, alone = Exchange(), Exchange()
    graphs = GraphRunner(CPU, record)
    for turn in range(4):
        x = torch.tensor([1.0, 2.0 + turn])
        assert torch.equal(graphs.run("key", exchange.step, x), alone.step(x))
        assert exchange.sums[-2:] == alone.sums[-2:]
    assert graphs.captures == 1
    assert len(exchange.sums) == 5 * 2, "once more while capturing"


def test_segments_and_what_is_between_them() -> None:
    exchange, x = Exchange(), torch.ones(2)
    captured = record(lambda: exchange.step(x))
    assert isinstance(captured, Segments)
    assert len(captured.pieces) == 5
    assert not isinstance(record(lambda: x * 2), Segments), "nothing apart, one piece"


def test_a_capture_that_fails_in_the_second_segment_is_over() -> None:
    def broken(x: Tensor) -> Tensor:
        if len(exchange.sums) > 1:
            between_graphs(exchange, x)
            raise RuntimeError("no")
        return between_graphs(exchange, x)

    exchange, graphs = Exchange(), GraphRunner(CPU, record)
    graphs.run("key", broken, torch.ones(2))
    exchange.sums.append(0.0)
    with pytest.raises(CaptureError, match="graph of broken"):
        graphs.run("key", broken, torch.ones(2))
    before = len(exchange.sums)
    between_graphs(exchange, torch.ones(2))
    assert len(exchange.sums) == before + 1


@pytest.mark.gpu
def test_segments_of_a_gpu() -> None:
    device = torch.device("cuda")
    exchange, alone = Exchange(), Exchange()
    graphs = GraphRunner(device)
    for turn in range(4):
        x = torch.tensor([1.0, 2.0 + turn], device=device)
        assert torch.equal(graphs.run("key", exchange.step, x), alone.step(x))
    x = torch.ones(2, device=device, dtype=torch.bfloat16)
    graphs.run("bf16", exchange.step, x)
    assert torch.equal(graphs.run("bf16", exchange.step, x), alone.step(x))
