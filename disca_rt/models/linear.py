"""The linears that models are made of, by how they keep their weight; each is an operand of ops.

A model hands a linear, or some of its rows, to an op as one thing (`kernels/operand.py`), and never
asks how its weight is kept. Another way of keeping it is another subclass of `EncodedLinear`, put
in place by `replace_linears`. Knows no checkpoint.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FP8 = torch.float8_e4m3fn
ALL = slice(None)


class Linear(nn.Linear):
    """A linear with a weight `[N, K]` and a bias `[N]`; `rows` are operands of its named `parts`.

    Parts are produced each on its own, when it is needed: q, k and v of a merged projection.
    """

    takes_fp8 = False  # rows that are quantized, by the op that makes them

    def __init__(
        self, in_features: int, out_features: int, parts: Mapping[str, slice] | None = None
    ) -> None:
        super().__init__(in_features, out_features)
        self._name_parts(parts or {})

    def _name_parts(self, parts: Mapping[str, slice]) -> None:
        self.parts = dict(parts)
        self.rows = {name: Rows(self, rows) for name, rows in parts.items()}

    def dense(self, rows: slice = ALL) -> tuple[Tensor, Tensor] | None:
        """Weight and bias of `rows` in the tokens' dtype, or None: then ops use `product`."""
        weight, bias = self.weight, self.bias
        return (weight, bias) if rows is ALL else (weight[rows], bias[rows])

    def product(self, x: Tensor, rows: slice = ALL) -> Tensor:
        """`weight·x + bias` of `rows`: `[..., K]` -> `[..., N]`."""
        return F.linear(x, *self.dense(rows))

    def into(self, x: Tensor, out: Tensor | None, rows: slice = ALL) -> Tensor:
        """`weight·x + bias` of `x [B, S, K]`. `out`: preferred destination, may be ignored."""
        dense = None if out is None or torch.is_grad_enabled() else self.dense(rows)
        return self.product(x, rows) if dense is None else _product(x, *dense, out)

    def share(
        self, x: Tensor, columns: slice, with_bias: bool, out: Tensor | None = None
    ) -> Tensor:
        """What the inputs numbered `columns`, `x [B, S, k]`, add to `weight·x + bias`.

        The shares of all inputs, one of them `with_bias`, are the product; `out` as of `into`.
        """
        dense = self.dense()
        if dense is None:
            start, stop, _ = columns.indices(self.in_features)
            product = self(F.pad(x, (start, self.in_features - stop)))
            return product if with_bias else product - self.bias
        weight, bias = dense[0][:, columns], dense[1] if with_bias else None
        return _product(x, weight, bias, None if torch.is_grad_enabled() else out)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None) -> Tensor:
    """`weight·x + bias` of `x [B, S, K]`, in `out` where there is one."""
    if out is None:
        return F.linear(x, weight, bias)
    whole = x.is_contiguous() and out.is_contiguous()  # as F.linear does it, to the bit
    pairs = [(x.flatten(0, 1), out.flatten(0, 1))] if whole else zip(x, out, strict=True)
    for rows, out_rows in pairs:
        if bias is None:
            torch.mm(rows, weight.T, out=out_rows)
        else:
            torch.addmm(bias, rows, weight.T, out=out_rows)
    return out


class Rows:
    """The operand of some `rows` of `linear`, which has to be kept by someone else.

    As the linear has these, a reference in both directions would leave the weights of a model in
    memory until the next garbage collection.
    """

    def __init__(self, linear: Linear, rows: slice) -> None:
        self._linear, self.rows = weakref.ref(linear), rows
        self.out_features = rows.stop - rows.start

    @property
    def takes_fp8(self) -> bool:
        return self._linear().takes_fp8

    @property
    def bias(self) -> Tensor:
        return self._linear().bias[self.rows]

    def __reduce__(self) -> tuple[type["Rows"], tuple[Linear, slice]]:
        return Rows, (self._linear(), self.rows)  # a copied linear's are of the copy

    def dense(self) -> tuple[Tensor, Tensor] | None:
        return self._linear().dense(self.rows)

    def into(self, x: Tensor, out: Tensor | None) -> Tensor:
        """The product; `out`: preferred destination, may be ignored."""
        return self._linear().into(x, out, self.rows)

    def __call__(self, x: Tensor) -> Tensor:
        return self._linear().product(x, self.rows)


def qkv_linear(hidden: int, extra: int = 0) -> Linear:
    """A merged projection of `hidden` rows each of q, k and v, then `extra` ones.

    Those are the MLP half of a single-stream block's `linear1`.
    """
    stops = {"q": hidden, "k": 2 * hidden, "v": 3 * hidden}
    parts = {name: slice(stop - hidden, stop) for name, stop in stops.items()}
    if extra:
        parts["extra"] = slice(3 * hidden, 3 * hidden + extra)
    return Linear(hidden, 3 * hidden + extra, parts)


class EncodedLinear(Linear):
    """A linear in place of another, whose bias it takes over, with a weight kept in another way.

    A subclass keeps the weight, and overrides `dense`; or `product` too, where `dense` is None.
    """

    def __init__(self, linear: Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self._name_parts(linear.parts)

    @property
    def shape(self) -> torch.Size:
        """Shape of the weight that it stands for, [out features, in features]."""
        return torch.Size((self.out_features, self.in_features))

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x)


class Fp8Linear(EncodedLinear):
    """A weight that stays in FP8 in memory: half the bytes of bf16, and no less work.

    It is `quantized [N, K]` times `scale [N, 1]`, decoded whenever it is used, and only the rows in
    use, in the dtype that the scale has. A scale a row holds those of an official checkpoint whose
    q, k and v have one each. To be filled by `keep` or `quantize`.
    """

    def __init__(self, linear: Linear) -> None:
        super().__init__(linear)
        weight, device = linear.weight, linear.weight.device
        # Of empty_like and of slices the meta device first imports a second of torch._refs.
        rows = linear.out_features, 1
        self.register_buffer("quantized", torch.empty(weight.shape, dtype=FP8, device=device))
        self.register_buffer("scale", torch.empty(rows, dtype=weight.dtype, device=device))

    def dense(self, rows: slice = ALL) -> tuple[Tensor, Tensor]:
        weight = self.quantized[rows].to(self.scale.dtype).mul_(self.scale[rows])
        return weight, self.bias[rows]

    def keep(self, rows: slice, quantized: Tensor, scale: Tensor) -> None:
        """Take FP8 values as they are; `scale` is one of all of them, or `[N, 1]`."""
        self.quantized[rows].copy_(quantized)
        self.scale[rows] = scale.to(self.scale)

    def quantize(self, rows: slice, weight: Tensor) -> None:
        """Take a weight of any float dtype: the largest value of a row becomes FP8's largest."""
        weight = weight.to(self.quantized.device)
        largest = weight.abs().amax(dim=1, keepdim=True).float() / torch.finfo(FP8).max
        # A subnormal scale would be a coarse one, and a zero would divide zeros.
        scale = largest.to(self.scale.dtype).clamp_min(torch.finfo(self.scale.dtype).tiny)
        self.scale[rows] = scale
        self.quantized[rows] = (weight / scale.float()).to(FP8)

    def largest(self, rows: slice) -> Tensor:
        """The largest magnitude of each row `[N, 1]`, NaN where one is; nothing is decoded for it.

        Without their sign, FP8's bytes have the order of its values, with NaN after the last.
        """
        magnitudes = self.quantized[rows].view(torch.uint8) & 0x7F
        largest = magnitudes.amax(dim=1, keepdim=True).view(FP8)
        return largest.to(self.scale.dtype) * self.scale[rows].abs()


def replace_linears(modules: Iterable[nn.Module], kind: Callable[[Linear], Linear]) -> None:
    """Put `kind` of it, yet to be filled, in place of every `Linear` in `modules`."""
    for module in modules:
        for owner in list(module.modules()):
            for name, child in owner.named_children():
                if isinstance(child, Linear):
                    setattr(owner, name, kind(child))


def fp8_linears(module: nn.Module) -> dict[str, Fp8Linear]:
    """The FP8 linears of `module`, by their names in it."""
    return {name: m for name, m in module.named_modules() if isinstance(m, Fp8Linear)}


def weight_slots(module: nn.Module) -> dict[str, nn.Parameter | EncodedLinear]:
    """The places that a checkpoint fills, by name: parameters, and encoded linears for weights."""
    encoded = {
        f"{name}.weight": m for name, m in module.named_modules() if isinstance(m, EncodedLinear)
    }
    return dict(module.named_parameters()) | encoded
