"""The best public kernels for single ops, where they are installed. Facts of their interfaces only.

Liger-Kernel comes with `pip install 'disca_rt[rivals]'`; quack-kernels and flash-attn have builds
for each GPU of their own. Each rival takes the arguments of our op and returns what runs theirs.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

Rival = Callable[..., Callable[[], object]]

EPS = 1e-6


def _liger_layer_norm() -> Rival:
    from liger_kernel.ops.layer_norm import LigerLayerNormFunction

    def rival(x: Tensor, weight: Tensor, bias: Tensor) -> Callable[[], object]:
        return lambda: LigerLayerNormFunction.apply(x, weight, bias, EPS)

    return rival


def _liger_layer_norm_modulate() -> Rival:
    """LayerNorm of Liger-Kernel with 1 + scale as its weight: the same at batch 1, where it is."""
    layer_norm = _liger_layer_norm()

    def rival(x: Tensor, shift: Tensor, scale: Tensor) -> Callable[[], object]:
        if len(x) != 1:
            raise ValueError(f"one sample has one scale, got a batch of {len(x)}")
        return layer_norm(x, 1 + scale[0], shift[0])

    return rival


def _liger_then_flash_attn() -> Rival:
    """RMSNorm of Liger-Kernel, then rotary of flash-attn on the image rows: two passes."""
    from flash_attn.ops.triton.rotary import apply_rotary
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    def rival(
        x: Tensor, img_weight: Tensor, txt_weight: Tensor, cos: Tensor, sin: Tensor
    ) -> Callable[[], object]:
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)  # apply_rotary takes no others; ours are fp32

        def run() -> Tensor:
            normed = LigerRMSNormFunction.apply(x, img_weight, EPS)
            return apply_rotary(normed[:, : len(cos)], cos, sin, interleaved=True, inplace=True)

        return run

    return rival


def _quack_then_flash_attn() -> Rival:
    """RMSNorm of quack (CuTe, sm_90 on), then rotary of flash-attn."""
    from flash_attn.ops.triton.rotary import apply_rotary
    from quack.rmsnorm import rmsnorm_fwd

    def rival(
        x: Tensor, img_weight: Tensor, txt_weight: Tensor, cos: Tensor, sin: Tensor
    ) -> Callable[[], object]:
        rows = x.flatten(0, 2)
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)  # as above

        def run() -> Tensor:
            normed = rmsnorm_fwd(rows, img_weight, eps=EPS)
            normed = (normed[0] if isinstance(normed, tuple) else normed).view(x.shape)
            return apply_rotary(normed[:, : len(cos)], cos, sin, interleaved=True, inplace=True)

        return run

    return rival


RIVALS: dict[str, dict[str, Callable[[], Rival]]] = {
    "layer_norm": {"Liger-Kernel": _liger_layer_norm},
    "layer_norm_modulate": {"Liger-Kernel": _liger_layer_norm_modulate},
    "rms_norm_rope": {
        "Liger-Kernel + flash-attn": _liger_then_flash_attn,
        "quack + flash-attn": _quack_then_flash_attn,
    },
}


def rivals(op: str, args: tuple[Any, ...]) -> dict[str, Callable[[], object]]:
    """By name: what runs the rivals of `op` on `args`; one that is missing or fails is reported."""
    found = {}
    for name, load in RIVALS.get(op, {}).items():
        try:
            run = load()(*args)
            run()
        except Exception as error:  # theirs: whatever it is, the others are still measured
            print(f"{op}: no {name} ({type(error).__name__}: {error})", flush=True)
            continue
        found[name] = run
    return found
