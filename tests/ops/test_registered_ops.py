"""Every op that enters torch.library: its schema and fake, and that compilers take it whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from disca_rt.kernels import registration
from disca_rt.kernels.fused import implementation
from disca_rt.kernels.op_table import TUNED, Call, calls
from disca_rt.kernels.registration import RegisteredOp
from disca_rt.kernels.workload import SMALL

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, device=DEVICE).to(dtype)


CALLS = calls(SMALL, make, torch.float32)


@contextmanager
def registered_calls() -> Iterator[list[tuple[RegisteredOp, tuple[Any, ...]]]]:
    """The registered ops that are called within, and with what."""
    seen: list[tuple[RegisteredOp, tuple[Any, ...]]] = []

    def record(op: RegisteredOp, *args: Any) -> Any:
        seen.append((op, args))
        return op._op(*args)

    with patch.object(RegisteredOp, "__call__", record):
        yield seen


def run(call: Call) -> Any:
    return implementation(call.op)(*call.args)


@pytest.mark.parametrize("name", CALLS)
def test_opcheck(name: str) -> None:
    with registered_calls() as seen:
        run(CALLS[name]())
    assert seen or name not in TUNED
    for op, args in seen:
        torch.library.opcheck(op.overload, args)


def test_every_registered_op_is_called_by_one_of_those() -> None:
    with registered_calls() as seen:
        for make_call in CALLS.values():
            run(make_call())
    called = {op.__name__ for op, _ in seen}
    ours = {op.__name__ for op in registration.REGISTERED if op.__module__.startswith("disca_rt.")}
    assert ours == called


@pytest.mark.gpu
@pytest.mark.parametrize("name", CALLS)
def test_graphs_replay_ops(name: str) -> None:
    torch.manual_seed(0)
    call = CALLS[name]()
    copies = [each.clone() if isinstance(each, Tensor) else each for each in call.args]
    graph, op = torch.cuda.CUDAGraph(), implementation(name)
    with torch.no_grad():
        expected = op(*call.args)
        op(*[each.clone() if isinstance(each, Tensor) else each for each in copies])  # compiles
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            captured = op(*copies)
    for _ in range(2 if expected is not None else 1):  # in place, a second replay goes on
        graph.replay()
    if expected is None:
        expected, captured = call.args[0], copies[0]
    torch.testing.assert_close(captured, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", CALLS)
def test_compilers_take_ops_without_a_break(name: str) -> None:
    torch.manual_seed(0)
    call = CALLS[name]()
    copies = [each.clone() if isinstance(each, Tensor) else each for each in call.args]
    op = implementation(name)
    torch._dynamo.reset()  # of the other ops
    compiled = torch.compile(lambda *args: op(*args), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        expected, actual = op(*call.args), compiled(*copies)
    if expected is None:  # works in place
        expected, actual = call.args[0], copies[0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
