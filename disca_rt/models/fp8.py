"""Puts a model's layers into FP8 by a table, and the linear that multiplies FP8 by FP8.

Weights have a scale a row from loading on, as their file has them or by their largest value; inputs
one a row of tokens, found by the op that makes them or, for tensors that come in 16 bits, by one of
its own. Knows no checkpoint.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention.scaled import ScaledAttention
from ..kernels.ops import Ops
from ..kernels.quantized import Quantized
from .blocks import DoubleStreamBlock, SingleStreamBlock
from .fp8_table import Fp8Table, Way
from .linear import ALL, Fp8Linear, Linear

ATTENTION = "attention"
Block = DoubleStreamBlock | SingleStreamBlock


class Fp8Product(Fp8Linear):
    """A linear whose products are of FP8 values; its input is `Quantized` or in 16 bits."""

    takes_fp8 = True

    def __init__(self, linear: Linear, ops: Ops) -> None:
        super().__init__(linear)
        self._ops = ops
        # In fp32, as the products take it, so that a file's scales are not rounded.
        scale = torch.empty(linear.out_features, 1, dtype=torch.float32, device=linear.bias.device)
        self.register_buffer("scale", scale)

    def decoded(self) -> tuple[Tensor, Tensor]:
        """The weight that it multiplies by, in its bias's dtype, and the bias."""
        return (self.quantized.float() * self.scale).to(self.bias.dtype), self.bias

    def dense(self, rows: slice = ALL) -> None:
        return None

    def product(self, x: Tensor | Quantized, rows: slice = ALL) -> Tensor:
        return self.into(x, None, rows)

    def into(self, x: Tensor | Quantized, out: Tensor | None, rows: slice = ALL) -> Tensor:
        given = x if isinstance(x, Quantized) else self._ops.quantize_joint(x)
        weights = self.quantized[rows], self.scale[rows], self.bias[rows]
        return self._ops.scaled_linear(given, *weights, out=out)

    def share(
        self, x: Tensor, columns: slice, with_bias: bool, out: Tensor | None = None
    ) -> Tensor:
        start, stop, _ = columns.indices(self.in_features)
        bias = self.bias if with_bias else torch.zeros_like(self.bias)
        given = self._ops.quantize_joint(F.pad(x, (start, self.in_features - stop)))
        return self._ops.scaled_linear(given, self.quantized, self.scale, bias, out=out)


def layers_of(blocks: Sequence[nn.Module], module: nn.Module) -> dict[str, nn.Module]:
    """The layers of `module` that a table names: by name its linears, and blocks for attentions.

    `blocks` are its blocks; other linears count where they are of a fusion.
    """
    found: dict[str, nn.Module] = {}
    names = {id(each): name for name, each in module.named_modules()}
    for block in blocks:
        found |= {name: each for name, each in _linears(block, names[id(block)])}
        found[f"{names[id(block)]}.{ATTENTION}"] = block
    for name, child in module.named_children():
        if name.startswith("fusion"):
            found |= {n: each for n, each in _linears(child, name)}
    return found


def put_into_fp8(
    module: nn.Module, blocks: Sequence[nn.Module], table: Fp8Table, ops: Ops, is_dit: bool
) -> dict[str, Way]:
    """Have the layers of `module` run as `table` says; its weights are yet to be filled."""
    layers = layers_of(blocks, module)
    names = {id(each): name for name, each in module.named_modules()}
    ways = table.ways(list(layers), [names[id(each)] for each in blocks], is_dit)
    for block in blocks:
        prefix = f"{names[id(block)]}."
        fp8 = (name for name, way in ways.items() if way == "fp8" and name.startswith(prefix))
        block.in_fp8 = frozenset(name.removeprefix(prefix) for name in fp8)
    for name, way in ways.items():
        layer = layers[name]
        if way == "16 bits":
            continue
        if isinstance(layer, Linear):
            owner, _, attribute = name.rpartition(".")
            kind = Fp8Linear(layer) if way == "weights" else Fp8Product(layer, ops)
            setattr(module.get_submodule(owner), attribute, kind)
        else:
            layer.attention = ScaledAttention(layer.attention, ops, layer.norms)
    return ways


LEAST = 8, 9  # compute capability of the first GPUs with units for FP8


def check_device(table: Fp8Table | None, device: torch.device) -> None:
    """Raise ValueError where layers are to compute in FP8 on a GPU that has no units for it."""
    if table is None or table.weights_only or device.type != "cuda":
        return
    found = torch.cuda.get_device_capability(device)
    if found < LEAST:
        raise ValueError(
            f"{device} has compute capability {found[0]}.{found[1]}, and FP8 products need "
            f"{LEAST[0]}.{LEAST[1]}; choose --fp8-weights, which keeps weights in FP8 alone"
        )


def _linears(module: nn.Module, prefix: str) -> Iterator[tuple[str, Linear]]:
    for name, each in module.named_modules(prefix=prefix):
        if isinstance(each, Linear):
            yield name, each
