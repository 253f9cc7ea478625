"""One block's attention in FP8: another attention, over heads that are quantized on their way.

Scales of q and k follow from the weights of their norms; that of v comes from the first values of a
sample, and stays. All lie on the device at one place, and nothing of them is known to the host, so
that captured steps are the same launches. Between ranks 16 bits travel, and are quantized on
arrival. Knows no models.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..kernels.fp8_reference import rope_scale
from ..kernels.ops import Ops
from ..tokens import TokenLayout
from .fp8 import Fp8Kernel, fp8_kernel, quantized_heads
from .local import LocalAttention, LocalHandle
from .protocol import Attention, AttentionHandle, AttentionInputs, Instead, Overlap

Norms = tuple[Tensor, ...]
"""Weights `[D]` of the RMSNorms that heads come from, of image and of text."""


class ScaledAttention:
    """`attention` in FP8, by the kernel that goes with its backend on the device at hand.

    Where no kernel runs, and where a sample has padding that the kernel cannot leave out, it is in
    16 bits. `norms` gives the weights of q's and of k's norms.
    """

    def __init__(
        self, attention: Attention, ops: Ops, norms: Callable[[], tuple[Norms, Norms]]
    ) -> None:
        self.attention, self.ops = attention, ops
        self.local, self.sharding = attention.local, attention.sharding
        self.prepare = attention.prepare
        self._norms = norms
        self._fixed: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._of_v: dict[tuple[object, ...], Tensor] = {}
        self.local.tell(self)

    def takes_lengths(self, width: int, dtype: torch.dtype, device: torch.device) -> bool:
        """Tell so as in 16 bits; false where the kernel in FP8 cannot leave out padding."""
        kernel = self.kernel(device, has_padding=False)
        is_able = kernel is None or kernel.padding
        return is_able and self.attention.takes_lengths(width, dtype, device)

    def begin(self, layout: TokenLayout, instead: Instead | None = None) -> AttentionHandle:
        if instead is None and isinstance(self.attention, LocalAttention):
            return ScaledHandle(self, self.attention.begin(layout), layout)
        return self.attention.begin(layout, partial(self._in_place, instead))

    def forget(self) -> None:
        """Take the scales of the next values that come: a sample begins."""
        for scale in self._of_v.values():
            scale.zero_()

    def kernel(self, device: torch.device, has_padding: bool) -> Fp8Kernel | None:
        """The kernel for heads on `device`; None where they are attended in 16 bits."""
        kernel = fp8_kernel(self.local.name, device)
        return None if kernel is None or (has_padding and not kernel.padding) else kernel

    def fixed(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The scales `[1]` of q and of k."""
        if device not in self._fixed:
            with torch.inference_mode(False):
                self._fixed[device] = tuple(rope_scale(*each) for each in self._norms())
        return self._fixed[device]

    def of_v(self, v: Tensor, kernel: Fp8Kernel) -> Tensor:
        """The scales of `v [B, S, H, D]`: of the first one since `forget` that is as large."""
        key = v.shape[0], v.shape[2], v.device, kernel.per_head
        if key not in self._of_v:
            with torch.inference_mode(False):  # written within and without it
                self._of_v[key] = kernel.new_scale(v)
        self.ops.scale_heads(v, self._of_v[key])
        return self._of_v[key]

    def attend(
        self, kernel: Fp8Kernel, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None
    ) -> Tensor:
        """Attention over heads of 16 bits or, q and k, of e4m3 by their scales."""
        scales = [each[None].expand(len(q), 1) for each in self.fixed(q.device)]
        quantize = self.ops.quantize_heads
        queries, keys = (
            quantized_heads(each, scale, quantize)
            for each, scale in zip((q, k), scales, strict=True)
        )
        values = quantized_heads(v, self.of_v(v, kernel), quantize)
        return kernel.attend(queries, keys, values, valid, v.dtype)

    def _in_place(self, instead: Instead | None, inputs: AttentionInputs) -> Tensor:
        """Output in place of the backend's call: the same in FP8, or `instead` with it."""
        kernel = self.kernel(inputs.v.device, inputs.valid is not None)
        if kernel is not None:
            inputs = inputs._replace(backend=partial(self.attend, kernel))
        return inputs.to_all_keys() if instead is None else instead(inputs)


class ScaledHandle:
    """One attention on one rank: k and q are wanted in e4m3, divided by `k_scale`, `q_scale`."""

    packing = None
    q_scale: Tensor | None = None
    k_scale: Tensor | None = None

    def __init__(self, scaled: ScaledAttention, plain: LocalHandle, layout: TokenLayout) -> None:
        self._scaled, self._plain, self._layout = scaled, plain, layout
        self._kernel: Fp8Kernel | None = None

    def put_v(self, v: Tensor) -> None:
        self._kernel = self._scaled.kernel(v.device, self._layout.lengths is not None)
        if self._kernel is not None:
            self.q_scale, self.k_scale = self._scaled.fixed(v.device)
        self._plain.put_v(v)

    def put_k(self, k: Tensor) -> None:
        self._plain.put_k(k)

    def put_q(self, q: Tensor) -> None:
        self._plain.put_q(q)

    def result(self, overlap: Overlap) -> Tensor:
        if self._kernel is None:
            return self._plain.result(overlap)
        return self._plain.by(partial(self._scaled.attend, self._kernel))
