"""Loads a checkpoint in any layout into a model whose every weight is in place.

The model is built without storage, then given storage on its device, then filled tensor by tensor
straight from the mapped file: nothing is held twice.
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..attention.protocol import Attention
from ..config import DiTConfig, PredictorConfig
from ..kernels.ops import Ops
from ..kernels.work import tensor_bytes
from ..models.build import build_dit, build_predictor
from ..models.dit import DiT
from ..models.fp8_table import Fp8
from ..models.linear import ALL, FP8, EncodedLinear, Fp8Linear, fp8_linears, weight_slots
from ..models.predictor import Predictor
from .assign import Copy, assign
from .checkpoint import Checkpoint, open_checkpoint
from .encodings.choose import is_encoded
from .encodings.kind import Coded
from .encodings.stored import PLAIN, Encoding, Plain, Scaled, Stored
from .errors import CheckpointError, CheckpointWarning, first_line
from .files.tensor_file import DTYPES
from .hub import resolve
from .identify import Model, identify
from .layouts.table import Span
from .sidecar import meanflow_doubt

M = TypeVar("M", bound=nn.Module)


def load_dit(
    source: str | Path,
    *,
    ops: Ops | None = None,
    attention: Attention | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    fp8: Fp8 = None,
) -> DiT:
    """The DiT in `source`: a file, a folder, an index, or a Hub reference (see `hub.resolve`).

    `dtype` None keeps the checkpoint's own (bf16 for FP8). `fp8` names the table of the layers that
    are in FP8 (`models.fp8_table`): "compute", "weights" or a file. What FP8 values the checkpoint
    has stay as they are there, with their scales; others are quantized tensor by tensor.
    Raises CheckpointError for anything wrong with the checkpoint.
    """
    model = _open(source)
    if not isinstance(model.config, DiTConfig):
        raise CheckpointError(
            f"{model.checkpoint.path} is a {model.describe()}, not a DiT; give it as the predictor"
        )
    dtype = dtype or own_dtype(model.checkpoint)
    dit = build_dit(model.config, ops, attention, "meta", dtype, fp8)
    return _fill(dit, model, torch.device(device), dtype)


def load_predictor(
    source: str | Path,
    dit: DiTConfig | None = None,
    *,
    ops: Ops | None = None,
    attention: Attention | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    fp8: Fp8 = None,
) -> Predictor:
    """The DisCa predictor in `source`, as `load_dit`; with `dit`, only one that fits that DiT.

    Warns where it continues MeanFlow models, as the published ones do, and `dit` is none.
    """
    model = _open(source)
    if not isinstance(model.config, PredictorConfig):
        raise CheckpointError(
            f"{model.checkpoint.path} is a {model.describe()}, not a predictor; give it as the DiT"
        )
    if dit is not None:
        _check_fits(model, model.config, dit)
    dtype = dtype or own_dtype(model.checkpoint)
    predictor = build_predictor(model.config, ops, attention, "meta", dtype, fp8)
    return _fill(predictor, model, torch.device(device), dtype)


def own_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The dtype of most values, which is said where others have another.

    Where some are encoded, bf16, which the authors compute in.
    """
    values = Counter[str]()
    for spec in checkpoint.specs.values():
        values[spec.dtype] += math.prod(spec.shape)
    if any(map(is_encoded, values)):
        return torch.bfloat16
    dtype, most = values.most_common(1)[0]
    if len(values) > 1:
        warnings.warn(
            f"{checkpoint.path} mixes {', '.join(values)}: {most / values.total():.1%} of its "
            f"values are {dtype}, which all are loaded as",
            CheckpointWarning,
            stacklevel=3,
        )
    return DTYPES[dtype]


def _open(source: str | Path) -> Model:
    return identify(open_checkpoint(resolve(source)))


def _check_fits(model: Model, config: PredictorConfig, dit: DiTConfig) -> None:
    if differing := config.differences(dit):
        raise CheckpointError(
            f"{model.checkpoint.path} is a predictor for another model: {', '.join(differing)}; "
            f"give one that was trained with this {dit.traits.title} DiT"
        )
    if doubt := meanflow_doubt(model.checkpoint.path.parent, dit):
        warnings.warn(f"{model.checkpoint.path}: {doubt}", CheckpointWarning, stacklevel=3)


def _fill(module: M, model: Model, device: torch.device, dtype: torch.dtype) -> M:
    copies = assign(model, module)
    encodings = _encodings(model, copies)
    module = _allocate(module, model, device)
    slots, not_finite = weight_slots(module), {}
    for copy in copies:
        stored = Stored(model.checkpoint.read(copy.source), encodings.get(copy.source, PLAIN))
        for rows, values in _spans(copy.spans, stored, model.config.hidden):
            if not _place(slots[copy.target], rows, values):
                not_finite[model.name_in_file(copy.source)] = None
    if not_finite:
        raise CheckpointError(
            f"{model.checkpoint.path}: {len(not_finite)} tensors have values that are not finite "
            f"as {str(dtype).removeprefix('torch.')}: {', '.join(not_finite)}"
        )
    assert {copy.target for copy in copies} == slots.keys()
    return module


def _encodings(model: Model, copies: list[Copy]) -> dict[str, Encoding]:
    """The encoding of every tensor that is not plain, by its name."""
    specs = model.checkpoint.specs
    coded = [Coded(c.source, c.target) for c in copies if is_encoded(specs[c.source].dtype)]
    return {} if model.encoding is None else model.encoding.encodings(model.whole, coded)


def _allocate(module: M, model: Model, device: torch.device) -> M:
    size = tensor_bytes(*module.parameters(), *module.buffers())
    try:
        for owner in module.modules():
            for name, parameter in owner.named_parameters(recurse=False):
                setattr(owner, name, nn.Parameter(_empty(parameter, device), requires_grad=False))
            for name, buffer in owner.named_buffers(recurse=False):
                setattr(owner, name, _empty(buffer, device))
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        can_code = isinstance(module, DiT) and not fp8_linears(module)
        way_out = ', or fp8="weights"' if can_code else ""
        raise CheckpointError(
            f"{model.checkpoint.path}: its {size / 1e9:.1f} GB do not fit on {device} "
            f"({first_line(error)}); choose another device or dtype{way_out}"
        ) from error
    return module


def _empty(tensor: Tensor, device: torch.device) -> Tensor:
    # Module.to_empty does this too, but from meta it first imports a second of torch._refs.
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)


def _spans(spans: tuple[Span, ...], stored: Stored, hidden: int) -> Iterator[tuple[slice, Stored]]:
    """The rows of a parameter that `stored` fills, and what fills them."""
    if not spans:
        yield ALL, stored
    for span in spans:
        source, target = (
            slice(start * hidden, (start + span.count) * hidden)
            for start in (span.source, span.target)
        )
        yield target, stored.of_rows(source)


def _place(slot: Tensor | EncodedLinear, rows: slice, stored: Stored) -> bool:
    """Fill `rows` of `slot`; whether all that is there then is finite."""
    if isinstance(slot, Fp8Linear):
        return _place_in_fp8(slot, rows, stored)
    target = slot.detach()[rows]
    stored.encoding.decode_into(stored.value, target)
    return _is_finite(target)


def _place_in_fp8(linear: Fp8Linear, rows: slice, stored: Stored) -> bool:
    """Keep FP8 values as they are; quantize any other."""
    value, encoding = stored.value, stored.encoding
    if value.dtype == FP8 and isinstance(encoding, Plain | Scaled):
        scale = encoding.scale if isinstance(encoding, Scaled) else torch.ones(())
        linear.keep(rows, value, scale)
    elif encoding is PLAIN and value.dtype.itemsize > 1:
        linear.quantize(rows, value)
    else:
        decoded = torch.empty(value.shape)
        encoding.decode_into(value, decoded)
        linear.quantize(rows, decoded)
    return bool(torch.isfinite(linear.largest(rows)).all())


def _is_finite(tensor: Tensor) -> bool:
    # The extremes are NaN where anything is; isfinite would need masks as large as the tensor.
    return all(bool(torch.isfinite(extreme)) for extreme in tensor.aminmax())
