"""Every op of products and attention in FP8, in plain PyTorch: the arithmetic of a GPU's, decoded.

`reference.py` has these under the same names. Values are rounded to e4m3 as the kernels round them,
and what is multiplied are the decoded values, in fp32, so that the quality of FP8 is measured on
any device. Shapes as in `reference.py`; `scale` of heads is `[B, H]` fp32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .quantized import E4M3, LARGEST, TINY, Quantized

HEADROOM = 2.0  # of scales taken from the first values: later ones may be as much larger


def rounded(values: Tensor) -> Tensor:
    """`values` fp32 in e4m3: rounded to nearest even, those beyond the largest cut to it."""
    return values.clamp(-LARGEST, LARGEST).to(E4M3)


def quantize_rows(x: Tensor) -> Quantized:
    """Rows of `x [B, S, K]`, each with the scale that brings its largest value to 448."""
    x = x.float()
    scale = (x.abs().amax(dim=-1, keepdim=True) / LARGEST).clamp_min(TINY)
    return Quantized(rounded(x * (1 / scale)), scale)


def quantize_joint(*parts: Tensor, gelu: bool = False) -> Quantized:
    """Rows `[parts...]`, quantized: `parts [B, S, K_i]`, one or two; with `gelu` GELU of the last.

    The inputs of the products that come after a GELU, or that take two tensors side by side.
    """
    *before, last = (each.float() for each in parts)
    if gelu:
        last = F.gelu(last, approximate="tanh")
    return quantize_rows(torch.cat([*before, last], dim=-1))


def quantize_heads(x: Tensor, scale: Tensor) -> Tensor:
    """`x [B, S, H, D]` divided by `scale [B, H]`, in e4m3."""
    return rounded(x.float() * (1 / scale)[:, None, :, None])


def rope_scale(*weights: Tensor) -> Tensor:
    """The scale `[1]` of heads after RMSNorm by one of `weights [D]` and a rotation.

    The squares of a normalised head add up to D at most, and so do those of any pair of its values,
    which a rotation does not change: none is beyond √D times the largest weight.
    """
    largest = torch.stack([each.abs().amax() for each in weights]).amax().float().reshape(1)
    return (largest * weights[0].shape[0] ** 0.5 / LARGEST).clamp_min(TINY)


def scale_heads(x: Tensor, scale: Tensor) -> None:
    """Fill `scale [B, H]` in place where it is 0: by the largest of `x [B, S, H, D]`, twice over.

    What was filled stays, so that a scale comes from the first values that it is used on. A scale
    `[B, 1]` is that of all heads.
    """
    largest = x.abs().amax(dim=(1, 3)).float() * (HEADROOM / LARGEST)
    if scale.shape[1] == 1:
        largest = largest.amax(dim=1, keepdim=True)
    scale.copy_(torch.where(scale > 0, scale, largest.clamp_min(TINY)))


def scaled_linear(
    x: Quantized, weight: Tensor, scale: Tensor, bias: Tensor, out: Tensor | None = None
) -> Tensor:
    """`(scale·weight)·x + bias`: `x [B, S, K]`, `weight [N, K]` e4m3, `scale [N, 1]` fp32.

    The sum is taken in fp32 and rounded once, to the dtype of `bias [N]`. `out` may be ignored.
    """
    product = F.linear(x.values.float(), weight.float()) * x.scale * scale[:, 0]
    return (product + bias.float()).to(bias.dtype)
