"""Events of a Chrome trace, made by hand."""

from collections.abc import Sequence

from disca_rt.profiling.timeline import TraceEvent

HOST, DEVICE = 1, 2


def span(cat: str, name: str, start: float, end: float, **args: object) -> TraceEvent:
    """Event from `start` to `end` µs; on the device's lane where it is a kernel."""
    lane = DEVICE if cat in ("kernel", "gpu_memcpy") else HOST
    return {
        "ph": "X",
        "cat": cat,
        "name": name,
        "ts": start,
        "dur": end - start,
        "tid": lane,
        "args": args,
    }


def marked(name: str, start: float, end: float) -> TraceEvent:
    return span("user_annotation", name, start, end)


def operator(
    name: str,
    start: float,
    end: float,
    shapes: object = (),
    dtype: str = "float",
    values: Sequence[str] = (),
) -> TraceEvent:
    dims = list(shapes)
    args = {"Input Dims": dims, "Input type": [dtype] * len(dims), "Concrete Inputs": values}
    return span("cpu_op", name, start, end, **args)


def launched(name: str, at: float, start: float, end: float, number: int, cat: str = "kernel"):
    """Launch on the host at `at`, and the kernel it launched."""
    launch = span("cuda_runtime", "cudaLaunchKernel", at, at + 0.5, correlation=number)
    return [launch, span(cat, name, start, end, correlation=number)]
