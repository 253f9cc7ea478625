"""A tile of token rows in a kernel: where it lies, how it is read and written, its LayerNorm.

The kernels over `[B, S, C]` have this in common: a program takes BLOCK_M rows of one sample, all C
columns of them, and computes in fp32. Addresses of rows are int64.
"""

import triton
import triton.language as tl

NORM_EPS = tl.constexpr(1e-6)


@triton.jit
def row_tile(S, C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """This program's sample, rows `[BLOCK_M, 1]`, columns `[BLOCK_C]` and the mask of both."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    batch = tl.program_id(1).to(tl.int64)
    cols = tl.arange(0, BLOCK_C)
    mask = (rows < S)[:, None] & (cols < C)[None, :]
    return batch, rows.to(tl.int64)[:, None], cols, mask


@triton.jit
def load_rows(ptr, stride_b, stride_s, batch, rows, cols, mask):
    """The tile of a tensor `[B, S, C]`, in fp32; zero outside `mask`."""
    ptrs = ptr + batch * stride_b + rows * stride_s + cols[None, :]
    return tl.load(ptrs, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_rows(ptr, stride_b, stride_s, batch, rows, cols, mask, values):
    """`values` into the tile of a tensor `[B, S, C]`, in its dtype."""
    ptrs = ptr + batch * stride_b + rows * stride_s + cols[None, :]
    tl.store(ptrs, values.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def load_vector(ptr, cols, C: tl.constexpr):
    """A vector `[1, BLOCK_C]` of the first C values at `ptr`, in fp32."""
    return tl.load(ptr + cols, mask=cols < C, other=0.0).to(tl.float32)[None, :]


@triton.jit
def row_layer_norm(x, mask, C: tl.constexpr):
    """`x [BLOCK_M, BLOCK_C]` fp32, zero outside `mask`: its LayerNorm over the first C columns."""
    mean = tl.sum(x, axis=1) / C
    centred = tl.where(mask, x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / C
    return centred * (1.0 / tl.sqrt(variance + NORM_EPS))[:, None]
