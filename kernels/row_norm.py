"""LayerNorm of the rows of a tile, in fp32: what the kernels that normalise have in common."""

import triton
import triton.language as tl

NORM_EPS = tl.constexpr(1e-6)


@triton.jit
def row_layer_norm(x, mask, C: tl.constexpr):
    """`x [BLOCK_M, BLOCK_C]` fp32, zero outside `mask`: its LayerNorm over the first C columns."""
    mean = tl.sum(x, axis=1) / C
    centred = tl.where(mask, x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / C
    return centred * (1.0 / tl.sqrt(variance + NORM_EPS))[:, None]
