"""Rows of tokens in a kernel: which ones a program takes, reading, LayerNorm and writing.

The kernels over `[B, S, C]` have this in common: a program takes BLOCK_M rows of one sample at a
time, TURNS times, and computes in fp32. A row is a tuple of parts `[BLOCK_M, BLOCK_C]` that lie
side by side; no column is computed in vain where BLOCK_C divides C. Vectors `[C]` are such tuples
too, of `[1, BLOCK_C]`, read once for all turns. Addresses of rows are int64.
"""

import triton
import triton.language as tl

NORM_EPS = tl.constexpr(1e-6)
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def rows_of_turn(turn, S, BLOCK_M: tl.constexpr, TURNS: tl.constexpr):
    """The rows `[BLOCK_M, 1]` of this turn, and which of them are below S."""
    rows = (tl.program_id(0) * TURNS + turn) * BLOCK_M + tl.arange(0, BLOCK_M)
    return rows.to(tl.int64)[:, None], (rows < S)[:, None]


@triton.jit
def columns(part: tl.constexpr, mask, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """The columns `[1, BLOCK_C]` of a part, and `mask` for those below C."""
    cols = part * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    if C % BLOCK_C != 0:
        mask = mask & (cols < C)
    return cols, mask


@triton.jit
def load_part(ptrs, part: tl.constexpr, mask, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """A part of the rows that begin at `ptrs [BLOCK_M, 1]`, in fp32; zero outside `mask`."""
    cols, mask = columns(part, mask, C, BLOCK_C)
    return tl.load(ptrs + cols, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_part(ptrs, part: tl.constexpr, mask, C: tl.constexpr, BLOCK_C: tl.constexpr, values):
    """`values` into a part of the rows that begin at `ptrs [BLOCK_M, 1]`, in their dtype."""
    cols, mask = columns(part, mask, C, BLOCK_C)
    tl.store(ptrs + cols, values.to(ptrs.dtype.element_ty), mask=mask)


@triton.jit
def load_rows(ptrs, mask, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """All parts of the rows that begin at `ptrs [BLOCK_M, 1]`, in fp32; zero outside `mask`."""
    row = ()
    for part in tl.static_range((C + BLOCK_C - 1) // BLOCK_C):
        row = row + (load_part(ptrs, part, mask, C, BLOCK_C),)
    return row


@triton.jit
def load_vector_part(ptr, part: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """A part `[1, BLOCK_C]` of the vector of C values at `ptr`, in fp32."""
    one_row = tl.full((1, 1), 1, tl.int1)
    return load_part(ptr + tl.zeros((1, 1), tl.int32), part, one_row, C, BLOCK_C)


@triton.jit
def load_vector(ptr, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """All parts of the vector of C values at `ptr`, in fp32."""
    vector = ()
    for part in tl.static_range((C + BLOCK_C - 1) // BLOCK_C):
        vector = vector + (load_vector_part(ptr, part, C, BLOCK_C),)
    return vector


@triton.jit
def store_rows(ptrs, mask, C: tl.constexpr, BLOCK_C: tl.constexpr, row):
    """All parts of `row` into the rows that begin at `ptrs [BLOCK_M, 1]`, in their dtype."""
    for part in tl.static_range(len(row)):
        store_part(ptrs, part, mask, C, BLOCK_C, row[part])


@triton.jit
def multiply_add(row, factor, addend):
    """`row·factor + addend`, part by part."""
    out = ()
    for part in tl.static_range(len(row)):
        out = out + (row[part] * factor[part] + addend[part],)
    return out


@triton.jit
def rounded(row, dtype: tl.constexpr):
    """`row` in another dtype, part by part."""
    out = ()
    for part in tl.static_range(len(row)):
        out = out + (row[part].to(dtype),)
    return out


@triton.jit
def one_plus(vector):
    """`1 + vector`, part by part."""
    out = ()
    for part in tl.static_range(len(vector)):
        out = out + (1.0 + vector[part],)
    return out


@triton.jit
def load_samples(ptrs, mask, C: tl.constexpr):
    """Three values of each row that begins at `ptrs [BLOCK_M, 1]`: the first, middle and last."""
    return (
        tl.load(ptrs, mask=mask, other=0.0).to(tl.float32),
        tl.load(ptrs + C // 2, mask=mask, other=0.0).to(tl.float32),
        tl.load(ptrs + (C - 1), mask=mask, other=0.0).to(tl.float32),
    )


@triton.jit
def _row_sums(first, second):
    """Sums `[BLOCK_M]` of the rows of each `[BLOCK_M, BLOCK_C]`, in one reduction."""
    rows: tl.constexpr = first.shape[0]
    both = tl.permute(tl.join(first, second), (2, 0, 1)).reshape(2 * rows, first.shape[1])
    return tl.split(tl.sum(both, axis=1).reshape(2, rows).permute(1, 0))


@triton.jit
def row_layer_norm(row, samples, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """LayerNorm, in fp32, of rows over their C columns, of which `samples` are three.

    One reduction, of the sums of d and d² where d is the value less a pivot. It keeps its digits
    while the pivot is within some std of the mean: hence the middle one of three values, which is
    no outlier of a single channel.
    """
    low, high = tl.minimum(samples[0], samples[1]), tl.maximum(samples[0], samples[1])
    pivot = tl.maximum(low, tl.minimum(high, samples[2]))
    centred = ()
    for part in tl.static_range(len(row)):
        d = row[part].to(tl.float32) - pivot
        if C % BLOCK_C != 0:
            cols = part * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
            d = tl.where(cols < C, d, 0.0)
        centred = centred + (d,)
    total, squares = centred[0], centred[0] * centred[0]
    for part in tl.static_range(1, len(row)):
        total += centred[part]
        squares += centred[part] * centred[part]
    total, squares = _row_sums(total, squares)
    mean = total / C
    rstd = tl.rsqrt(squares / C - mean * mean + NORM_EPS)
    out = ()
    for part in tl.static_range(len(row)):
        out = out + (centred[part] * rstd[:, None] - (mean * rstd)[:, None],)
    return out


@triton.jit
def add_rows(
    x_ptrs,
    branch_ptrs,
    residual_ptrs,
    gate,
    gate_samples,
    mask,
    C: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Store x + gate·branch; return its LayerNorm without scale and shift.

    The sum is rounded first: whoever normalises it from memory gets the same.
    """
    x, samples = load_rows(x_ptrs, mask, C, BLOCK_C), load_samples(x_ptrs, mask, C)
    branch = load_rows(branch_ptrs, mask, C, BLOCK_C)
    samples = multiply_add(load_samples(branch_ptrs, mask, C), gate_samples, samples)
    residual = rounded(multiply_add(branch, gate, x), residual_ptrs.dtype.element_ty)
    store_rows(residual_ptrs, mask, C, BLOCK_C, residual)
    return row_layer_norm(residual, samples, C, BLOCK_C)
