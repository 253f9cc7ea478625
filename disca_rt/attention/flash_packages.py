"""FlashAttention 2, 3 and 4 from packages of their own, imported when they are asked for.

Facts of their interfaces: all three take `q, k, v [B, S, H, D]`, and no mask; what they return
besides the output differs. Kernels of FA3 and FA4 can read on the device how many keys a sample
has, by a function of its own: FA3's is meant for a cache that is longer than what it holds. Knows
no names of backends and no table.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from torch import Tensor

from .partial import Partial

FUNCTION = "flash_attn_func"


class WithLengths(NamedTuple):
    """The function that takes numbers of keys, and the argument by which it does."""

    function: str
    argument: str


class FlashPackage(NamedTuple):
    """A package with a function `flash_attn_func` in one of `modules`.

    `lse_flag` is the argument that asks for the log-sum-exp beside the output; `with_lengths` is
    None where there is no such function.
    """

    modules: tuple[str, ...]
    lse_flag: str
    with_lengths: WithLengths | None = None

    def missing(self) -> str | None:
        """Say why the package cannot be imported; None where it can."""
        found = flash_function(self.modules)
        return found if isinstance(found, str) else None

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, **scales: Tensor
    ) -> Tensor:
        """Attention; `scales` are `q_descale` and its like `[B, H]`, of e4m3 heads."""
        return _alone(self._call(q, k, v, **scales))

    def attend_with_lengths(self, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
        function, argument = self.with_lengths
        # One split: how many are best is guessed from lengths that the host does not know.
        named = {argument: lengths, "num_splits": 1}
        return _alone(self._call(q, k, v, function, **named))

    def attend_with_lse(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Partial:
        out, lse, *_ = self._call(q, k, v, **{self.lse_flag: True})
        return Partial(out, lse[:, :, : out.shape[1]].transpose(1, 2))

    def _call(self, q: Tensor, k: Tensor, v: Tensor, function: str = FUNCTION, **more: Any) -> Any:
        attend = flash_function(self.modules, function)
        return attend(q, k, v, softmax_scale=q.shape[-1] ** -0.5, causal=False, **more)


def _alone(out: Any) -> Tensor:
    """The output without what FA4, and FA3 until 2025, return beside it."""
    return out[0] if isinstance(out, tuple) else out


@cache
def flash_function(modules: tuple[str, ...], name: str = FUNCTION) -> Callable[..., Any] | str:
    """The function called `name` of the first module that has it, or why none has."""
    errors = []
    for module in modules:
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            errors.append(f"{error}".partition("\n")[0])
    return "; ".join(errors)


FA2 = FlashPackage(("flash_attn",), "return_attn_probs")
# Built from the hopper folder of its repository, or from the index.
FA3 = FlashPackage(
    ("flash_attn_interface", "fa3_fwd_interface"),
    "return_attn_probs",
    WithLengths("flash_attn_with_kvcache", "cache_seqlens"),
)
FA4 = FlashPackage(
    ("flash_attn.cute",), "return_lse", WithLengths("flash_attn_varlen_func", "seqused_k")
)
