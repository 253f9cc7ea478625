"""The best public kernels for single ops, where they are installed. Facts of their interfaces only.

Liger-Kernel comes with `pip install 'disca_rt[rivals]'`; quack-kernels and flash-attn have builds
for each GPU of their own. Each rival takes the arguments of our op and returns what runs theirs.
"""

from collections.abc import Callable
from functools import partial
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


def _liger_rms_norm() -> Callable[[Tensor, Tensor], Tensor]:
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    return lambda x, weight: LigerRMSNormFunction.apply(x, weight, EPS)


def _quack_rms_norm() -> Callable[[Tensor, Tensor], Tensor]:
    """RMSNorm by CuTe, on sm_90 and later."""
    from quack.rmsnorm import rmsnorm_fwd

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        normed = rmsnorm_fwd(x.flatten(0, 2), weight, eps=EPS)
        return (normed[0] if isinstance(normed, tuple) else normed).view(x.shape)

    return norm


def _then_flash_attn(load_norm: Callable[[], Callable[[Tensor, Tensor], Tensor]]) -> Rival:
    """An RMSNorm, then rotary of flash-attn on the image rows: two passes."""
    from flash_attn.ops.triton.rotary import apply_rotary

    norm = load_norm()

    def rival(
        x: Tensor, img_weight: Tensor, txt_weight: Tensor, cos: Tensor, sin: Tensor
    ) -> Callable[[], object]:
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)  # apply_rotary takes no others; ours are fp32

        def run() -> Tensor:
            rows = norm(x, img_weight)[:, : len(cos)]
            return apply_rotary(rows, cos, sin, interleaved=True, inplace=True)

        return run

    return rival


RIVALS: dict[str, dict[str, Callable[[], Rival]]] = {
    "layer_norm": {"Liger-Kernel": _liger_layer_norm},
    "layer_norm_modulate": {"Liger-Kernel": _liger_layer_norm_modulate},
    "rms_norm_rope": {
        "Liger-Kernel + flash-attn": partial(_then_flash_attn, _liger_rms_norm),
        "quack + flash-attn": partial(_then_flash_attn, _quack_rms_norm),
    },
}


def rivals(op: str, args: tuple[Any, ...]) -> dict[str, Callable[[], object]]:
    """Functions that run the rivals of `op` on `args`, by name; one that fails is reported."""
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
