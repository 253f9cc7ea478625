"""CUDA graphs: a callable is captured over persistent buffers at its second use, then replayed.

Knows tensors, no models: a key, the objects that a capture depends on, and the forms of its inputs
say what it is of; everything that changes from call to call is an input. The first use of a key
runs as it is and is the warm-up (kernels are compiled, libraries get their memory); an error while
capturing is raised, never hidden by running eagerly.
"""

import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import first_line
from .segments import Replayable, in_segments

MAX_CAPTURES = 32
MAX_WARM = 1024  # keys that ran once; cheap, as only the shape of a result is kept


class CaptureError(RuntimeError):
    """A callable cannot be captured; the message says which one and why.

    PyTorch may be left amid the capture: its allocator still gives this stream memory of the
    graph's pool, and its random numbers wait for a replay. The process ought to end.
    """


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
        """Bytes of the device that the pool holds."""
        segments = torch.cuda.memory.memory_snapshot(self._pool, include_traces=False)
        return sum(each["total_size"] for each in segments)


class _Key(NamedTuple):
    """The caller's key, the ids of what it depends on, and the form of the inputs.

    Of one that ran once, the thread that ran it, too: cuDNN's plans are each thread's own, and none
    can be built within a capture.
    """

    key: Hashable
    depends_on: tuple[int, ...]
    inputs: tuple[Hashable, ...]
    bound: tuple[Hashable, ...]
    thread: threading.Thread | None = None


class _Tree(NamedTuple):
    """A tree of tensors and constants: its tensors, its form, and how to put it together again."""

    leaves: list[Any]
    spec: Any
    form: tuple[Hashable, ...]

    @property
    def tensors(self) -> list[Tensor]:
        return [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]


def _tree(value: Any) -> _Tree:
    """The leaves of an input and its form: shape, dtype and device of tensors, other values."""
    leaves, spec = pytree.tree_flatten(value)
    forms = [(x.shape, x.dtype, x.device) if isinstance(x, Tensor) else x for x in leaves]
    return _Tree(leaves, spec, (str(spec), *forms))


@dataclass
class _WarmedUp:
    """A key that ran once. `depends_on` stays alive, so that no other object gets its ids."""

    depends_on: Sequence[object]
    result: Any  # on the meta device


@dataclass
class _Captured:
    """A capture: every replay reads `inputs` and writes `output`.

    `bound` is the tree that was copied last to its part of the inputs.
    """

    depends_on: Sequence[object]
    inputs: list[Tensor]
    bound_inputs: list[Tensor]
    bound: Any
    output: Any
    graph: Replayable

    @property
    def buffer_bytes(self) -> int:
        """Bytes of its input and output buffers."""
        tensors = (*self.inputs, *self.bound_inputs, *_tree(self.output).tensors)
        return sum(each.nbytes for each in tensors)


class GraphRunner:
    """Captures by key, the least recently used given up for a new one beyond `max_captures`.

    So are keys that ran once, beyond `max_warm`: they are new again. Runtimes that sample in turn
    may share a runner; it keeps alive what its captures depend on, models too, until they go.
    """

    def __init__(
        self,
        device: torch.device,
        capture: Capture | None = None,
        max_captures: int = MAX_CAPTURES,
        max_warm: int = MAX_WARM,
    ) -> None:
        self._device = device
        self._capture = capture or CudaCapture(device)
        self._max_captures, self._max_warm = max_captures, max_warm
        self._captured: OrderedDict[_Key, _Captured] = OrderedDict()
        self._warm: OrderedDict[_Key, _WarmedUp] = OrderedDict()
        self._bound: tuple[Any, _Tree] = (None, _tree(None))  # the last one, and its tree
        self._failure: str | None = None

    def run(
        self,
        key: Hashable,
        compute: Callable[..., Any],
        *inputs: Any,
        bound: Any = None,
        depends_on: Sequence[object] = (),
    ) -> Any:
        """`compute(*inputs, bound)`, captured at a thread's second time: a tree of tensors.

        A capture is replayed by all threads. Where one failed, all runs raise its CaptureError.
        Without `bound` it is `compute(*inputs)`.

        The result is good until the key's next run, or that of a key which was captured with it as
        an input and is then given another: clone what is to outlive them. `inputs` and `bound` are
        trees of tensors and constants; `bound` is copied only where it is another object than at
        the key's run before, and must not change meanwhile. `compute` must depend on nothing else
        that changes while the key stays and `depends_on` are the same objects, such as a model and
        the buffers of a state, and write nothing but buffers that stay.
        """
        if self._failure is not None:
            raise CaptureError(self._failure)
        given = _tree(inputs)
        if bound is not self._bound[0]:
            self._bound = bound, _tree(bound)
        bound_tree = self._bound[1]
        full_key = _Key(key, tuple(map(id, depends_on)), given.form, bound_tree.form)
        if full_key not in self._captured:
            of_thread = full_key._replace(thread=threading.current_thread())
            if of_thread not in self._warm:
                result = compute(*inputs, *_if_any(bound))
                warmed_up = _WarmedUp(depends_on, pytree.tree_map(_to_meta, result))
                _keep(self._warm, of_thread, warmed_up, self._max_warm)
                return result
            captured = self._capture_now(compute, given, bound_tree, bound, self._warm[of_thread])
            _keep(self._captured, full_key, captured, self._max_captures)
        self._captured.move_to_end(full_key)
        captured = self._captured[full_key]
        _copy_changed(captured.inputs, given.leaves)
        if captured.bound is not bound:
            _copy_changed(captured.bound_inputs, bound_tree.leaves)
            captured.bound = bound
        captured.graph.replay()
        return captured.output

    def drop(self, thing: object) -> None:
        """Give up the captures that depend on `thing`, and no others."""
        for known in (self._captured, self._warm):
            for key in [key for key in known if id(thing) in key.depends_on]:
                del known[key]

    def clear(self) -> None:
        """Give up all captures and their memory."""
        self._captured.clear()
        self._warm.clear()
        self._bound = None, _tree(None)

    @property
    def captures(self) -> int:
        return len(self._captured)

    @property
    def memory_bytes(self) -> int:
        """The pool that all captures share, which evictions do not shrink, and their buffers."""
        pool = self._capture.pool_bytes if isinstance(self._capture, CudaCapture) else 0
        return pool + sum(each.buffer_bytes for each in self._captured.values())

    def _capture_now(
        self, compute: Callable[..., Any], given: _Tree, bound: _Tree, tree: Any, ran: _WarmedUp
    ) -> _Captured:
        outputs = {id(t) for c in self._captured.values() for t in _tree(c.output).tensors}
        with torch.inference_mode(False):  # made within it, they could not be written outside
            static, static_bound = (
                _Tree([_static(leaf, outputs) for leaf in each.leaves], each.spec, each.form)
                for each in (given, bound)
            )
            output = pytree.tree_map(self._empty_like, ran.result)
        arguments = pytree.tree_unflatten(static.leaves, given.spec)
        arguments = *arguments, *_if_any(pytree.tree_unflatten(static_bound.leaves, bound.spec))
        targets = _tree(output).tensors

        def captured() -> None:
            for target, value in zip(targets, _tree(compute(*arguments)).tensors, strict=True):
                target.copy_(value)

        try:
            graph = self._capture(captured)
        except Exception as error:
            self._failure = (
                f"a CUDA graph of {_name(compute)} cannot be captured "
                f"({type(error).__name__}: {first_line(error)}); end this process, which it may "
                "have left amid a capture, and start it with graphs off"
            )
            raise CaptureError(self._failure) from error
        return _Captured(ran.depends_on, static.tensors, static_bound.tensors, tree, output, graph)

    def _empty_like(self, leaf: Any) -> Any:
        return torch.empty_like(leaf, device=self._device) if isinstance(leaf, Tensor) else leaf


def _if_any(bound: Any) -> tuple[Any, ...]:
    return () if bound is None else (bound,)


def _static(leaf: Any, outputs: Collection[int]) -> Any:
    """The memory that a capture reads: the tensor itself where another capture writes it."""
    return leaf.clone() if isinstance(leaf, Tensor) and id(leaf) not in outputs else leaf


def _copy_changed(static: Sequence[Tensor], given: Sequence[Any]) -> None:
    tensors = [leaf for leaf in given if isinstance(leaf, Tensor)]
    for target, tensor in zip(static, tensors, strict=True):
        if tensor is not target:
            target.copy_(tensor)


def _to_meta(leaf: Any) -> Any:
    return leaf.to("meta") if isinstance(leaf, Tensor) else leaf


def _keep(known: OrderedDict[_Key, Any], key: _Key, value: Any, limit: int) -> None:
    """Add `value`, and drop the least recently used beyond `limit`."""
    known[key] = value
    while len(known) > limit:
        known.popitem(last=False)


def _name(compute: Callable[..., object]) -> str:
    while hasattr(compute, "func"):  # functools.partial
        compute = compute.func
    return getattr(compute, "__name__", repr(compute)).strip("_").replace("_", " ")
