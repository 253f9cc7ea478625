"""Attention to some of the keys, and how two such parts become attention to both.

A softmax over all keys is the mean of softmaxes over parts of them, weighted by the exponentials'
sums (arXiv 1805.02867; over a ring of ranks: arXiv 2310.01889). Knows no backends and no ranks.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Partial(NamedTuple):
    """`out [B, Sq, H, D]` over the keys seen, and `lse [B, Sq, H]` fp32: their log-sum-exp."""

    out: Tensor
    lse: Tensor


def merge(part: Partial, more: Partial) -> Partial:
    """Attention to the keys of both; `out` in fp32, so that many merge before one rounding."""
    lse = torch.logaddexp(part.lse, more.lse)
    finite = lse.nan_to_num(neginf=0.0)  # two parts may be nothing but padding
    weights = torch.exp(part.lse - finite), torch.exp(more.lse - finite)
    out = part.out.float() * weights[0][..., None]
    return Partial(torch.addcmul(out, more.out.float(), weights[1][..., None]), lse)
