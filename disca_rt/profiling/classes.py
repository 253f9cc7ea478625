"""Classes of what runs: attention, GEMM, an op by its name, convolution, copy, other and so on.

The ranges around a kernel say which it is; the name of a kernel is looked at only where no op does,
as in the replay of a CUDA graph.
"""

import re
from collections.abc import Sequence

from .work import CONVOLUTIONS, GEMMS, OPS

ATTENTION, GEMM, CONVOLUTION, CACHE_OP = "attention", "GEMM", "convolution", "cache op"
COLLECTIVE, COPY, OTHER, GAP = "collective", "copy", "other", "gap"

# Of ops whose range is not called as their class is.
CLASS_OF_OP = {
    "join_tokens": COPY,
    "finite_differences": CACHE_OP,
    "forecast": CACHE_OP,
    "forecast_channels": CACHE_OP,
    "gated_sum": CACHE_OP,
}
# The first that is found in the name of a PyTorch operator or of a kernel.
PATTERNS = tuple(
    (re.compile(pattern, re.IGNORECASE), found)
    for pattern, found in (
        (r"nccl|c10d::|gloo", COLLECTIVE),
        (r"attention|fmha|flash_?(attn|fwd)|sdpa", ATTENTION),
        (r"gemm|gemv|nvjet|cublas|cutlass|splitk", GEMM),
        (r"memcpy|memset|catarray|direct_copy|aten::(copy_|cat|clone|contiguous|to|fill_)$", COPY),
    )
)
FUSED_KERNEL = re.compile(r"_(\w+)_kernel")  # this project's Triton kernels are called after ops
OP_OF_KERNEL = {"gelu_tanh": "linear_gelu"}


def classify(kernel: str, operator: str, ranges: Sequence[str]) -> str:
    """Class of a kernel that `operator` ("": none) launched in `ranges`, outermost first."""
    inner = ranges[-1] if ranges else ""
    level, _, op = inner.partition(" ")
    if level == "op":
        is_product = operator in GEMMS and op != ATTENTION
        return GEMM if is_product else CLASS_OF_OP.get(op, op)
    found = _by_name(kernel, operator)
    if found == COPY and level == "middle":  # a policy keeps something
        return CACHE_OP
    return found


def _by_name(kernel: str, operator: str) -> str:
    if operator in GEMMS:
        return GEMM
    if operator in CONVOLUTIONS:  # whose kernels are called GEMM as well
        return CONVOLUTION
    fused = FUSED_KERNEL.match(kernel)
    if fused is not None:
        op = OP_OF_KERNEL.get(fused[1], fused[1])
        if op in OPS:
            return CLASS_OF_OP.get(op, op)
    for pattern, found in PATTERNS:
        if pattern.search(operator) or pattern.search(kernel):
            return found
    return OTHER
