"""A linear of its own for image and for text, both written into one joint tensor by their GEMMs."""

import torch
from torch import Tensor

from .gradients import products_kept


@products_kept
def joint_linear(
    img: Tensor,
    txt: Tensor,
    img_weight: Tensor,
    img_bias: Tensor,
    txt_weight: Tensor,
    txt_bias: Tensor,
) -> Tensor:
    batch, img_len, _ = img.shape
    shape = (batch, img_len + txt.shape[1], len(img_weight))
    out = torch.empty(shape, dtype=img.dtype, device=img.device)
    for row in range(batch):  # the rows of one sample lie together, those of a stream do not
        torch.addmm(img_bias, img[row], img_weight.T, out=out[row, :img_len])
        torch.addmm(txt_bias, txt[row], txt_weight.T, out=out[row, img_len:])
    return out


@products_kept
def buffer(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device)


@products_kept
def join_tokens(*parts: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.cat(parts, dim=1) if out is None else out
