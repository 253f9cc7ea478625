"""SiLU(weight·[current, cached] + bias) as two accumulating GEMMs: the predictor's front end."""

import torch
import torch.nn.functional as F
from torch import Tensor


def fuse_cached(current: Tensor, cached: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    weight_current, weight_cached = weight.chunk(2, dim=1)
    out = torch.empty((*current.shape[:2], len(weight)), dtype=current.dtype, device=current.device)
    for row in range(len(current)):
        torch.addmm(bias, current[row], weight_current.T, out=out[row])
        out[row].addmm_(cached[row], weight_cached.T)
    return F.silu(out, inplace=True)
