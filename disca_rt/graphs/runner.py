"""CUDA graphs: a callable is captured over persistent buffers at its second use, then replayed.

Knows tensors, no models: who calls says by a key, and by the objects that a capture is made over,
what it depends on besides the shapes of its inputs, and everything that changes from call to call
is an input. The first use of a key runs as it is and is the warm-up (kernels are compiled,
libraries get their memory); an error while capturing is raised, never hidden by running eagerly.
"""

import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .segments import Replayable, in_segments

MOST = 32  # captures that are kept
MOST_WARM = 1024  # keys that ran once; cheap, as only the shape of a result is kept


class CaptureError(RuntimeError):
    """A callable cannot be captured; the message says which one and why."""


Capture = Callable[[Callable[[], object]], Replayable]
"""Runs a callable while noting down what it launches."""


class CudaCapture:
    """One memory pool for all captures of a runner: none is replayed while another runs.

    Sharing is safe in any order of replays, and after any eviction, because a captured callable
    leaves its result in memory from outside the pool: nothing in the pool outlives a replay. What
    ranks exchange is done between graphs, on the same stream. A pool ends with its last graph:
    PyTorch refuses its handle then, and the next capture has another.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._alive: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()

    def __call__(self, compute: Callable[[], object]) -> Replayable:
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        # Between two exchanges there may be nothing: an empty graph, of which PyTorch would warn.
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*CUDA Graph is empty")
            return in_segments(self._begin, compute)

    def _begin(self) -> Callable[[], Replayable]:
        if not self._alive:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        self._alive.add(graph)
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")

        def end() -> Replayable:
            graph.capture_end()
            return graph

        return end

    @property
    def pool_bytes(self) -> int:
        """What the pool has of the device."""
        segments = torch.cuda.memory.memory_snapshot(self._pool, include_traces=False)
        return sum(each["total_size"] for each in segments)


class _Key(NamedTuple):
    """The caller's key, the ids of what it is over, and the form of the inputs."""

    key: Hashable
    over: tuple[int, ...]
    spec: str
    signature: tuple[Hashable, ...]


@dataclass
class _Ran:
    """Of a key that ran once: its result's shape. `over` stays alive: no other gets its id."""

    over: Sequence[object]
    result: Tensor


@dataclass
class _Captured:
    """`inputs` are read and `output` is written by every replay; `over` stays alive."""

    over: Sequence[object]
    inputs: list[Tensor]
    output: Tensor
    graph: Replayable

    @property
    def buffer_bytes(self) -> int:
        return sum(each.nbytes for each in (*self.inputs, self.output))


class GraphRunner:
    """Captures by key, the least recently used given up for a new one beyond `most`.

    So are keys that ran once, beyond `most_warm`: they are new again. Runtimes that sample in turn
    may share a runner; it keeps alive what its captures are over, models too, until they go.
    """

    def __init__(
        self,
        device: torch.device,
        capture: Capture | None = None,
        most: int = MOST,
        most_warm: int = MOST_WARM,
    ) -> None:
        self._device = device
        self._capture = capture or CudaCapture(device)
        self._most, self._most_warm = most, most_warm
        self._captured: OrderedDict[_Key, _Captured] = OrderedDict()
        self._warm: OrderedDict[_Key, _Ran] = OrderedDict()

    def run(
        self,
        key: Hashable,
        compute: Callable[..., Tensor],
        *inputs: Any,
        over: Sequence[object] = (),
    ) -> Tensor:
        """`compute(*inputs)`, captured from the second time on; good until the key's next run.

        `inputs` are trees of tensors and constants. `compute` must depend on nothing else that
        changes while the key stays and `over` are the same objects, such as a model and the buffers
        of a state, and write nothing but buffers that stay.
        """
        leaves, spec = pytree.tree_flatten(inputs)
        key = _Key(key, tuple(map(id, over)), str(spec), tuple(map(_signature, leaves)))
        if key not in self._captured:
            if key not in self._warm:
                result = compute(*inputs)
                _keep(self._warm, key, _Ran(over, result.to("meta")), self._most_warm)
                return result
            captured = self._captured_now(compute, leaves, spec, self._warm[key])
            _keep(self._captured, key, captured, self._most)
        self._captured.move_to_end(key)
        captured = self._captured[key]
        given = (leaf for leaf in leaves if isinstance(leaf, Tensor))
        for static, tensor in zip(captured.inputs, given, strict=True):
            static.copy_(tensor)
        captured.graph.replay()
        return captured.output

    def drop(self, thing: object) -> None:
        """Give up the captures over `thing`, and no others."""
        for known in (self._captured, self._warm):
            for key in [key for key in known if id(thing) in key.over]:
                del known[key]

    def clear(self) -> None:
        """Give up all captures and their memory."""
        self._captured.clear()
        self._warm.clear()

    @property
    def captures(self) -> int:
        return len(self._captured)

    @property
    def memory_bytes(self) -> int:
        """The pool that all captures share, which evictions do not shrink, and their buffers."""
        pool = self._capture.pool_bytes if isinstance(self._capture, CudaCapture) else 0
        return pool + sum(each.buffer_bytes for each in self._captured.values())

    def _captured_now(
        self, compute: Callable[..., Tensor], leaves: list[Any], spec: Any, ran: _Ran
    ) -> _Captured:
        with torch.inference_mode(False):  # made within it, they could not be written outside
            static = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            output = torch.empty_like(ran.result, device=self._device)
        arguments = pytree.tree_unflatten(static, spec)
        inputs = [leaf for leaf in static if isinstance(leaf, Tensor)]

        def captured() -> None:
            output.copy_(compute(*arguments))

        try:
            graph = self._capture(captured)
        except Exception as error:
            raise CaptureError(
                f"a CUDA graph of {_name(compute)} cannot be captured "
                f"({type(error).__name__}: {str(error).strip().partition(chr(10))[0]}); "
                "switch graphs off"
            ) from error
        return _Captured(ran.over, inputs, output, graph)


def _keep(known: OrderedDict[_Key, Any], key: _Key, value: Any, most: int) -> None:
    """Under `key`, at most `most` of them, the last used ones."""
    known[key] = value
    while len(known) > most:
        known.popitem(last=False)


def _signature(leaf: Any) -> Hashable:
    """What a capture depends on of an input."""
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.dtype, leaf.device
    return leaf


def _name(compute: Callable[..., object]) -> str:
    while hasattr(compute, "func"):  # functools.partial
        compute = compute.func
    return getattr(compute, "__name__", repr(compute)).strip("_").replace("_", " ")
