"""Two parts of the blocks: heads as attention wants them, and an MLP half that can wait for it."""

from collections.abc import Callable, Mapping

from torch import Tensor

from ..attention.protocol import AttentionHandle
from ..kernels.operand import Input
from ..kernels.ops import Ops
from ..tokens import StepContext


def put_k_and_q(
    attention: AttentionHandle,
    project: Callable[[str], Tensor],
    norms: Mapping[str, tuple[Tensor, Tensor]],
    context: StepContext,
    ops: Ops,
) -> None:
    """Hand k and q to `attention`, which has v: projected, normalised by `norms` and rotated.

    Both are rotated at once where they stay here in 16 bits; else each as soon as it is projected,
    in the layout or by the scale that `attention` wants.
    """
    # Nothing here holds what was projected, neither a name nor a tuple, so that it ends with its
    # norm.
    cos, sin = rope = context.freqs_cos, context.freqs_sin
    scales = {"k": attention.k_scale, "q": attention.q_scale}
    if attention.packing is None and scales == {"k": None, "q": None}:
        (q_img, q_txt), (k_img, k_txt) = norms["q"], norms["k"]
        q, k = ops.rms_norm_rope_pair(
            project("q"), project("k"), q_img, q_txt, k_img, k_txt, cos, sin
        )
        attention.put_k(k)
        attention.put_q(q)
        return
    for which, put in (("k", attention.put_k), ("q", attention.put_q)):
        if scales[which] is None:
            put(ops.rms_norm_rope_send(project(which), *norms[which], *rope, attention.packing))
        else:
            quantize = ops.rms_norm_rope_quantize
            put(quantize(project(which), *norms[which], *rope, scales[which]))


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
