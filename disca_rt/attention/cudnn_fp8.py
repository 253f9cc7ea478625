"""cuDNN's attention in FP8, through its frontend package, imported when it is asked for.

Facts of its interface: heads and output are described by sizes `[B, H, S, D]` and strides, each
tensor has one scale, and so have the softmax's weights; on Hopper the output is e4m3 as well.
Graphs are built once for each shape, in each thread, whose handle cuDNN wants.
"""

from functools import cache
from importlib import import_module
from threading import local
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..kernels.quantized import E4M3, LARGEST

OF_THREAD = local()
ONE = [1, 1, 1, 1]


class _Graph(NamedTuple):
    """A built graph, its tensors by name, and the constants that it reads."""

    graph: Any
    tensors: dict[str, Any]
    constants: dict[str, Tensor]
    out_dtype: torch.dtype


@cache
def cudnn_missing() -> str | None:
    """Say why the package cannot be imported; None where it can."""
    try:
        import_module("cudnn")
    except (ImportError, OSError) as error:
        return f"{error}".partition("\n")[0]
    return None


def cudnn_attend(q: Any, k: Any, v: Any, dtype: torch.dtype) -> Tensor:
    """Attention of one sample over heads (`attention.fp8.Heads`) whose scales are `[1, 1]`."""
    heads = [each.values.transpose(1, 2) for each in (q, k, v)]
    built = _built(heads)
    queries = q.values
    out = torch.empty(queries.shape, dtype=built.out_dtype, device=queries.device)
    given = dict(zip("qkv", heads, strict=True)) | built.constants
    for name, each in zip("qkv", (q, k, v), strict=True):
        given[f"descale_{name}"] = each.scale.reshape(ONE)
    is_coarse = built.out_dtype == E4M3
    if is_coarse:  # a mean of v's rows: none of it is beyond what v's scale can hold
        given["scale_o"] = v.scale.reciprocal().reshape(ONE)
    given["o"] = out.transpose(1, 2)
    _execute(built, given, queries.device)
    return out.to(dtype).mul_(v.scale.to(dtype)) if is_coarse else out.to(dtype)


def _execute(built: _Graph, given: dict[str, Tensor], device: torch.device) -> None:
    cudnn, handle = import_module("cudnn"), _handle()
    cudnn.set_stream(handle=handle, stream=torch.cuda.current_stream(device).cuda_stream)
    size = max(1, built.graph.get_workspace_size())
    workspace = torch.empty(size, dtype=torch.uint8, device=device)
    pack = {built.tensors[name]: each for name, each in given.items()}
    built.graph.execute(pack, workspace, handle=handle)


def _handle() -> Any:
    if not hasattr(OF_THREAD, "handle"):
        OF_THREAD.handle, OF_THREAD.graphs = import_module("cudnn").create_handle(), {}
    return OF_THREAD.handle


def _built(heads: list[Tensor]) -> _Graph:
    """The graph for these sizes and strides."""
    _handle()
    device = heads[0].device
    key = device, *((each.shape, each.stride()) for each in heads)
    if key not in OF_THREAD.graphs:
        OF_THREAD.graphs[key] = _build(heads, device)
    return OF_THREAD.graphs[key]


def _build(heads: list[Tensor], device: torch.device) -> _Graph:
    cudnn = import_module("cudnn")
    fp8, fp32 = cudnn.data_type.FP8_E4M3, cudnn.data_type.FLOAT
    graph = cudnn.pygraph(
        io_data_type=fp8, intermediate_data_type=fp32, compute_data_type=fp32, handle=_handle()
    )
    tensors = {
        name: graph.tensor(
            name=name, dim=list(each.shape), stride=list(each.stride()), data_type=fp8
        )
        for name, each in zip("qkv", heads, strict=True)
    }
    for name in ("descale_q", "descale_k", "descale_v", "descale_s", "scale_s", "scale_o"):
        tensors[name] = graph.tensor(name=name, dim=ONE, stride=ONE, data_type=fp32)
    width = heads[0].shape[-1]
    found = graph.sdpa_fp8(**tensors, generate_stats=False, attn_scale=width**-0.5)
    names = ("o", "stats", "amax_s", "amax_o")
    tensors |= {name: each for name, each in zip(names, found, strict=True) if name != "stats"}
    is_hopper = torch.cuda.get_device_capability(device) < (10, 0)
    batch, count, rows, _ = heads[0].shape
    strides = [rows * count * width, width, count * width, 1]
    out = tensors["o"].set_output(True).set_dim([batch, count, rows, width]).set_stride(strides)
    out.set_data_type(fp8 if is_hopper else cudnn.data_type.BFLOAT16)
    for name in ("amax_s", "amax_o"):
        tensors[name].set_output(True).set_dim(ONE).set_stride(ONE).set_data_type(fp32)
    graph.build([cudnn.heur_mode.A])
    return _Graph(graph, tensors, _constants(device), E4M3 if is_hopper else torch.bfloat16)


def _constants(device: torch.device) -> dict[str, Tensor]:
    """Scales that never change, and room for the largest values, which nobody reads."""
    numbers = {"descale_s": 1 / LARGEST, "scale_s": LARGEST, "scale_o": 1.0}
    numbers |= {"amax_s": 0.0, "amax_o": 0.0}
    return {name: torch.full(ONE, each, device=device) for name, each in numbers.items()}
