"""weight·[first, second] + bias as two accumulating GEMMs, so that nothing is concatenated.

The input of a single-stream block's `linear2`, [attention, MLP], is such a pair, and so is the
input of the predictor's front end. The second GEMM reads the output of the first and writes it
again, 2 activations more than one GEMM; the concatenation would read and write 10, or 4.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .gradients import products_kept


@products_kept
def pair_linear(
    first: Tensor, second: Tensor, weight: Tensor, bias: Tensor, out: Tensor | None = None
) -> Tensor:
    weight_first, weight_second = weight.split([first.shape[-1], second.shape[-1]], dim=1)
    if out is None:
        out = torch.empty((*first.shape[:2], len(weight)), dtype=first.dtype, device=first.device)
    for row in range(len(first)):  # the rows of a sample lie together, also where slices come in
        torch.addmm(bias, first[row], weight_first.T, out=out[row])
        out[row].addmm_(second[row], weight_second.T)
    return out


@products_kept
def fuse_cached(current: Tensor, cached: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.silu(pair_linear(current, cached, weight, bias), inplace=True)
