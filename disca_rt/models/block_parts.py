"""Two parts of the blocks: heads as attention wants them, and an MLP half that can wait for it."""

from collections.abc import Callable

from torch import Tensor

from ..attention.protocol import AttentionHandle
from ..kernels.operand import Input
from ..kernels.ops import Ops
from ..tokens import StepContext


def norm_rope_for(
    attention: AttentionHandle, context: StepContext, ops: Ops
) -> Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]:
    """`rms_norm_rope` with the step's tables, in the layout that `attention` wants.

    Its last argument is the scale by which `attention` wants the result in e4m3, or None.
    """
    rope, packing = (context.freqs_cos, context.freqs_sin), attention.packing

    def norm_rope(x: Tensor, img_norm: Tensor, txt_norm: Tensor, scale: Tensor | None) -> Tensor:
        if scale is not None:
            return ops.rms_norm_rope_quantize(x, img_norm, txt_norm, *rope, scale)
        if packing is None:
            return ops.rms_norm_rope(x, img_norm, txt_norm, *rope)
        return ops.rms_norm_rope_send(x, img_norm, txt_norm, *rope, packing)

    return norm_rope


class MLPHalf:
    """The MLP half of `linear1`, at once or, where attention has to wait, in two row pieces."""

    def __init__(self, compute: Callable[[Input], Tensor], x: Input) -> None:
        self._compute, self._left = compute, [x]
        self._done: list[Tensor] = []

    def advance(self) -> None:
        if not self._done:
            self._left = list(self._left[0].tensor_split(2, dim=1))
        if self._left:
            self._done.append(self._compute(self._left.pop(0)))

    def finish(self) -> list[Tensor]:
        """Its rows in one or two pieces."""
        return [*self._done, *map(self._compute, self._left)]
