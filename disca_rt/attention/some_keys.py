"""Attention to the keys of masks: by the block-sparse kernel on a GPU, elsewhere piece by piece.

Pieces are PyTorch's attention of some queries to the keys that any of them attends to. Knows no
caches and no ranks.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .block_plans import attend_by, of_spans
from .masks import Mask, SpanMask, spans_of
from .protocol import AttentionInputs
from .pytorch_kernels import CPU_VECTOR

SCORES = 2**26  # scores that are in memory at once: 256 MB in fp32


def attend(inputs: AttentionInputs, mask: Mask) -> Tensor:
    """The output `[B, S, H, D]` of attention to the keys of `mask`."""
    q, k, v = (each.transpose(1, 2) for each in inputs[:3])
    parts = []
    for queries in pieces(inputs):
        keys = mask.keys(queries)
        if inputs.valid is not None:
            keys = keys & inputs.valid[:, None, None]
        keys = keys.expand(-1, q.shape[1], -1, -1)
        part = F.scaled_dot_product_attention(q[:, :, queries], k, v, attn_mask=keys)
        parts.append(part.transpose(1, 2))
    return torch.cat(parts, dim=1)


def attend_within(
    inputs: AttentionInputs,
    mask: SpanMask,
    heads: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """The output `[B, S, H, D]` of `attend`, without keys that a span's queries skip.

    Heads `[B, H]` that are false stay as they are in `out`, and nothing of them is computed.
    """
    out = torch.empty_like(inputs.q) if out is None else out
    if inputs.q.device.type == "cuda":
        return attend_by(of_spans(mask, inputs.q.device), inputs, heads, out)
    if heads is None:
        return _by_spans(inputs, mask, out)
    for sample, of_sample in enumerate(heads):
        chosen = of_sample.nonzero().flatten()
        if len(chosen):
            out[sample, :, chosen] = _by_spans(_some(inputs, sample, chosen), mask)[0]
    return out


def _by_spans(inputs: AttentionInputs, mask: SpanMask, out: Tensor | None = None) -> Tensor:
    width, out = inputs.q.shape[-1], torch.empty_like(inputs.q) if out is None else out
    tensors = [F.pad(each, (0, -width % CPU_VECTOR)) for each in inputs[:3]]
    for queries, places, is_whole in spans_of(mask, inputs.q.device):
        keys = None if is_whole else mask.keys(queries, places)
        if inputs.valid is not None:
            valid = inputs.valid[:, None, None, places]
            keys = valid if keys is None else keys & valid
        # Rows of all heads are copied faster than those of one.
        rows = zip(tensors, (queries, places, places), strict=True)
        q, k, v = (each.index_select(1, which).transpose(1, 2) for each, which in rows)
        part = F.scaled_dot_product_attention(q, k, v, attn_mask=keys, scale=width**-0.5)
        out.index_copy_(1, queries, part[..., :width].transpose(1, 2))
    return out


def _some(inputs: AttentionInputs, sample: int, heads: Tensor) -> AttentionInputs:
    """The arguments of some heads of one sample."""
    q, k, v = (each[sample : sample + 1, :, heads] for each in inputs[:3])
    valid = None if inputs.valid is None else inputs.valid[sample : sample + 1]
    return inputs._replace(q=q, k=k, v=v, valid=valid)


def pieces(inputs: AttentionInputs, group: int = 1) -> Iterator[Tensor]:
    """Numbers of all queries, in order: as many at once as `SCORES` allows, in whole groups."""
    batch, tokens, heads, _ = inputs.q.shape
    count = max(1, SCORES // (batch * heads * tokens * group)) * group
    yield from torch.arange(tokens, device=inputs.q.device).split(count)


def scores(inputs: AttentionInputs, queries: Tensor) -> Tensor:
    """`[B, H, Q, S]` fp32: what the softmax of `queries [Q]` is taken of, -inf at padding."""
    q, k = (each.transpose(1, 2).float() for each in (inputs.q[:, queries], inputs.k))
    products = torch.matmul(q, k.transpose(2, 3)) * q.shape[-1] ** -0.5
    if inputs.valid is None:
        return products
    return products.masked_fill(~inputs.valid[:, None, None], float("-inf"))
