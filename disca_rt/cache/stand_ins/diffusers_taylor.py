"""TaylorSeer's forecast as in diffusers, with factors of a dtype of their own."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.ops import Ops
from ...tokens import of_text
from ..options import check_int
from ..stand_in import Kept, Moment, TensorSpec
from .polynomial import MAX_ORDER, Differences

DTYPES = {name: getattr(torch, name) for name in ("bfloat16", "float16", "float32")}


@dataclass(frozen=True)
class DiffusersTaylor(Differences):
    """Derivatives up to `max_order`, formed from the second full step on.

    `taylor_factors_dtype` is that of the factors, such as bfloat16 (diffusers' default) or float32;
    none: the value's.
    """

    ops: Ops
    max_order: int = 1
    taylor_factors_dtype: str | None = None

    def __post_init__(self) -> None:
        check_int("max_order", self.max_order, 0, MAX_ORDER)
        if self.taylor_factors_dtype not in (None, *DTYPES):
            raise ValueError(
                f"taylor_factors_dtype must be one of {[*DTYPES]} or none, got "
                f"{self.taylor_factors_dtype!r}"
            )

    @property
    def orders(self) -> int:
        return self.max_order

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        (spec,) = super().kept_specs(like)
        return (spec._replace(dtype=DTYPES.get(self.taylor_factors_dtype, like.dtype)),)

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        factors = kept[0].to(value.dtype)
        super().keep((factors,), value, at)
        if factors is not kept[0]:
            kept[0].copy_(factors)

    def value(self, kept: Kept, at: Moment) -> Tensor:
        of_value = of_text(at.context.vec) if at.context is not None else at.entering
        return super().value((kept[0].to(of_value.dtype),), at)
