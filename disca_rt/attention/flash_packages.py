"""FlashAttention 2, 3 and 4 from packages of their own, imported when they are asked for.

Facts of their interfaces: all three take `q, k, v [B, S, H, D]` in 16 bits on a GPU, and no mask;
what they return besides the output differs. Knows no table and no default.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

DEVICE = "cuda"
DTYPES = torch.bfloat16, torch.float16


class FlashPackage(NamedTuple):
    """`modules`: where its function may be. `lse`: what asks for the scores' logarithms, too."""

    install: str
    modules: tuple[str, ...]
    lse: str


PACKAGES = {
    "fa2": FlashPackage("flash-attn", ("flash_attn",), "return_attn_probs"),
    # Built from the hopper folder of its repository, or from the index.
    "fa3": FlashPackage(
        "fa3-fwd", ("flash_attn_interface", "fa3_fwd_interface"), "return_attn_probs"
    ),
    "fa4": FlashPackage("flash-attn-4", ("flash_attn.cute",), "return_lse"),
}


@cache
def flash_function(name: str) -> Callable[..., Any]:
    """`flash_attn_func` of the package; ValueError where it is not here."""
    package, errors = PACKAGES[name], []
    for module in package.modules:
        try:
            return import_module(module).flash_attn_func
        except (ImportError, AttributeError) as error:
            errors.append(f"{error}".partition("\n")[0])
    raise ValueError(
        f"attention backend {name} is not here ({'; '.join(errors)}): pip install {package.install}"
    )


@cache
def is_here(name: str) -> bool:
    """Whether the package can be imported."""
    try:
        flash_function(name)
    except ValueError:
        return False
    return True


def flash_attend(name: str, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
    """A `Backend` of the package."""
    out = _call(name, q, k, v, valid)
    return out[0] if isinstance(out, tuple) else out  # FA4, and FA3 until 2025


def flash_attend_with_lse(
    name: str, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The output and the logarithms `[B, H, Sq]` fp32 of the sums of exponentials."""
    out, lse, *_ = _call(name, q, k, v, valid, **{PACKAGES[name].lse: True})
    return out, lse


def _call(name: str, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, **more: bool) -> Any:
    attend = flash_function(name)
    if valid is not None or q.device.type != DEVICE or q.dtype not in DTYPES:
        padding = "no padding" if valid is None else "padding"
        raise ValueError(
            f"attention backend {name} cannot run on {q.device.type} with {q.dtype} and "
            f"{padding}; it takes bfloat16 or float16 on a GPU without padding; choose sdpa"
        )
    return attend(q, k, v, softmax_scale=q.shape[-1] ** -0.5, causal=False, **more)
