"""From a checkpoint in any layout to a model whose every weight is in place.

The model is built without storage, then given storage on its device, then filled tensor by tensor
straight from the mapped file: nothing is held twice.
"""

from collections import Counter
from itertools import chain
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..attention.protocol import Attention
from ..config import DiTConfig, PredictorConfig
from ..kernels.ops import Ops
from ..models.build import build_dit, build_predictor
from ..models.dit import DiT
from ..models.linear import ALL, Fp8Linear, fp8_linears, quantize_blocks
from ..models.predictor import Predictor
from .assign import Copy, plan_copies
from .checkpoint import Checkpoint, open_checkpoint
from .errors import CheckpointError, first_line
from .fp8 import FP8, load_scales
from .hub import resolve
from .identify import FAMILY_NAMES, Model, identify
from .layouts.table import Span
from .tensor_file import DTYPES

M = TypeVar("M", bound=nn.Module)


def load_dit(
    source: str | Path,
    *,
    ops: Ops | None = None,
    attention: Attention | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    fp8_weights: bool = False,
) -> DiT:
    """The DiT in `source`: a file, a folder, an index, or a Hub reference (see `hub.resolve`).

    `dtype` None keeps the checkpoint's own (bf16 for FP8). With `fp8_weights` the blocks' linears
    stay in FP8, or are quantized tensor by tensor where the checkpoint has them in another dtype.
    Raises CheckpointError for anything wrong with the checkpoint.
    """
    model = _open(source)
    if not isinstance(model.config, DiTConfig):
        raise CheckpointError(
            f"{model.checkpoint.path} is a {model.describe()}, not a DiT; give it as the predictor"
        )
    dtype = dtype or own_dtype(model.checkpoint)
    dit = build_dit(model.config, ops, attention, "meta", dtype)
    copies = plan_copies(model, dit)
    if fp8_weights:
        quantize_blocks(dit.blocks)
    return _fill(dit, model, copies, torch.device(device), dtype)


def load_predictor(
    source: str | Path,
    dit: DiTConfig | None = None,
    *,
    ops: Ops | None = None,
    attention: Attention | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Predictor:
    """The DisCa predictor in `source`, as `load_dit`; with `dit`, only one that fits that DiT."""
    model = _open(source)
    if not isinstance(model.config, PredictorConfig):
        raise CheckpointError(
            f"{model.checkpoint.path} is a {model.describe()}, not a predictor; give it as the DiT"
        )
    if dit is not None:
        _check_fits(model, model.config, dit)
    dtype = dtype or own_dtype(model.checkpoint)
    predictor = build_predictor(model.config, ops, attention, "meta", dtype)
    copies = plan_copies(model, predictor)
    return _fill(predictor, model, copies, torch.device(device), dtype)


def own_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The dtype of most tensors; bf16, which the authors compute in, where there is FP8."""
    dtypes = Counter(spec.dtype for spec in checkpoint.specs.values())
    return torch.bfloat16 if FP8 in dtypes else DTYPES[dtypes.most_common(1)[0][0]]


def _open(source: str | Path) -> Model:
    return identify(open_checkpoint(resolve(source)))


def _check_fits(model: Model, config: PredictorConfig, dit: DiTConfig) -> None:
    if differing := config.differences(dit):
        raise CheckpointError(
            f"{model.checkpoint.path} is a predictor for another model: {', '.join(differing)}; "
            f"give one that was trained with this {FAMILY_NAMES[dit.family]} DiT"
        )


def _fill(
    module: M, model: Model, copies: list[Copy], device: torch.device, dtype: torch.dtype
) -> M:
    scales = load_scales(model.checkpoint, copies)
    module = _allocate(module, model, device)
    targets: dict[str, Tensor | Fp8Linear] = {n: p.detach() for n, p in module.named_parameters()}
    targets |= {f"{name}.weight": linear for name, linear in fp8_linears(module).items()}
    not_finite = []
    for copy in copies:
        target, tensor = targets[copy.target], model.checkpoint.read(copy.source)
        rows = _place(target, tensor, copy, model.config.hidden, scales.get(copy.source))
        if not all(map(_is_finite, rows)):
            not_finite.append(copy.source)
    if not_finite:
        raise CheckpointError(
            f"{model.checkpoint.path}: {len(not_finite)} tensors have values that are not finite "
            f"as {str(dtype).removeprefix('torch.')}: {', '.join(not_finite)}"
        )
    assert {copy.target for copy in copies} == targets.keys()
    return module


def _allocate(module: M, model: Model, device: torch.device) -> M:
    size = sum(t.numel() * t.element_size() for t in chain(module.parameters(), module.buffers()))
    try:
        for owner in module.modules():
            for name, parameter in owner.named_parameters(recurse=False):
                setattr(owner, name, nn.Parameter(_empty(parameter, device), requires_grad=False))
            for name, buffer in owner.named_buffers(recurse=False):
                setattr(owner, name, _empty(buffer, device))
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        can_code = isinstance(module, DiT) and not fp8_linears(module)
        way_out = ", or fp8_weights" if can_code else ""
        raise CheckpointError(
            f"{model.checkpoint.path}: its {size / 1e9:.1f} GB do not fit on {device} "
            f"({first_line(error)}); choose another device or dtype{way_out}"
        ) from error
    return module


def _empty(tensor: Tensor, device: torch.device) -> Tensor:
    # Module.to_empty does this too, but from meta it first imports a second of torch._refs.
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)


def _place(
    target: Tensor | Fp8Linear, tensor: Tensor, copy: Copy, hidden: int, scale: Tensor | None
) -> list[Tensor]:
    """Fill `target`, or its rows in `copy.spans`, and return what was filled."""
    spans = copy.spans
    rows = [_rows(s.target, s, hidden) for s in spans] or [ALL]
    values = [tensor[_rows(s.source, s, hidden)] for s in spans] or [tensor]
    pairs = zip(rows, values, strict=True)
    if isinstance(target, Fp8Linear):
        return [_place_quantized(target, their_rows, each, scale) for their_rows, each in pairs]
    return [_place_decoded(target[their_rows], each, scale) for their_rows, each in pairs]


def _place_decoded(target: Tensor, values: Tensor, scale: Tensor | None) -> Tensor:
    target.copy_(values)
    return target if scale is None else target.mul_(scale.to(target))


def _place_quantized(
    linear: Fp8Linear, rows: slice, values: Tensor, scale: Tensor | None
) -> Tensor:
    if scale is None:
        linear.quantize(rows, values)
    else:
        linear.keep(rows, values, scale)
    return linear.weight_rows(rows)


def _rows(start: int, span: Span, hidden: int) -> slice:
    return slice(start * hidden, (start + span.count) * hidden)


def _is_finite(tensor: Tensor) -> bool:
    # The extremes are NaN where anything is; isfinite would need masks as large as the tensor.
    return all(bool(torch.isfinite(extreme)) for extreme in tensor.aminmax())
