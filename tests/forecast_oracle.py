"""Forecasts written out from what was kept at which step: recursions as recursions, bands as bands.

`history` are the (step, value) that were kept before `step`, whose value is asked for.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from disca_rt.cache.stand_ins.diffusers_taylor import DiffusersTaylor
from disca_rt.cache.stand_ins.foca import FoCa
from disca_rt.cache.stand_ins.freqca import FreqCa
from disca_rt.cache.stand_ins.half_taylor import HalfTaylor
from disca_rt.cache.stand_ins.hyca import HyCa
from disca_rt.cache.stand_ins.polynomial import Hermite, Taylor
from disca_rt.cache.stand_ins.taylorseer import HiCache, TaylorSeer
from disca_rt.tokens import StepContext

History = Sequence[tuple[int, Tensor]]
HERMITE = [lambda x: 1.0, lambda x: 2 * x, lambda x: 4 * x**2 - 2, lambda x: 8 * x**3 - 12 * x]


def forecast(stand_in: Any, history: History, step: int, context: StepContext | None) -> Tensor:
    """The value of a stand-in of `FORECASTS`."""
    return FORECASTS[type(stand_in)](stand_in, history, step, context)


def derivatives(
    history: History, orders: int, first: int = 1, fixed: int | None = None
) -> list[Tensor]:
    """TaylorSeer's factors: of order 1 and more from step `first` - 1 on."""
    factors: list[Tensor] = []
    before = 0
    for at, value in history:
        newest = [value]
        for older in factors[:orders] if at >= first - 1 else ():
            newest.append((newest[-1] - older) / (fixed or at - before))
        factors, before = newest, at
    return factors


def expanded(factors: Sequence[Tensor], k: int, sigma: float | None = None) -> Tensor:
    """Taylor's series at distance `k`, or Hermite's scaled by `sigma`."""
    basis = [
        k**i if sigma is None else sigma**i * HERMITE[i](sigma * k) for i in range(len(factors))
    ]
    return sum(
        b / math.factorial(i) * f for i, (b, f) in enumerate(zip(basis, factors, strict=True))
    )


def taylorseer(s: TaylorSeer, history: History, step: int, context: object) -> Tensor:
    fixed = s.fresh_threshold if s.spacing == "fixed" else None
    factors = derivatives(history, s.max_order, s.first_enhance, fixed)
    return expanded(factors, step - history[-1][0])


def hicache(s: HiCache, history: History, step: int, context: object) -> Tensor:
    k = step - history[-1][0]
    sigma = min(1, 1.28 / (2**0.5 * k)) if s.analytic_sigma else s.hicache_scale_factor
    return expanded(derivatives(history, s.max_order, s.first_enhance), k, sigma)


def half_taylor(s: HalfTaylor, history: History, step: int, context: object) -> Tensor:
    if len(history) == 1:
        return history[0][1]
    (before, c_before), (at, c) = history[-2:]
    return c + 0.5 * min(step - at, at - before) / (at - before) * (c - c_before)


def foca(s: FoCa, history: History, step: int, context: object) -> Tensor:
    return recursion(history, step, foca_paper if s.variant == "paper" else foca_cache_dit)


def recursion(history: History, step: int, advance: Callable[..., Tensor]) -> Tensor:
    """Steps one after another: what was kept, or `advance` from the last two values."""
    kept = dict(history)
    fulls: list[tuple[int, Tensor]] = []
    values: list[Tensor] = []
    for at in range(history[0][0], step + 1):
        if at in kept:
            fulls.append((at, kept[at]))
            values.append(kept[at])
        else:
            values.append(advance(at, fulls, values) if len(fulls) > 1 else fulls[-1][1])
    return values[-1]


def foca_paper(at: int, fulls: list, values: list[Tensor]) -> Tensor:
    (before, f_before), (now, f_now) = fulls[-2:]
    derivative = (f_now - f_before) / (now - before)
    predicted = 4 / 3 * values[-1] - 1 / 3 * values[-2] + 2 / 3 * derivative
    return values[-1] + 1 / 2 * (derivative + (predicted - values[-1]))


def foca_cache_dit(at: int, fulls: list, values: list[Tensor]) -> Tensor:
    (_, f_before), (now, f_now) = fulls[-2:]
    change = (f_now - f_before) + (values[-1] - values[-2])
    elapsed = at - now
    if elapsed <= 3:
        return f_now + elapsed / 2 * change
    weight = 3 / elapsed
    return weight * (f_now + 1.5 * change) + (1 - weight) * f_now


def hyca(s: HyCa, history: History, step: int, context: object) -> Tensor:
    k = step - history[-1][0]
    of_solver = {
        "reuse": history[-1][1],
        "taylor-1": expanded(derivatives(history, 1), k),
        "taylor-2": expanded(derivatives(history, 2), k),
        "ab-2": recursion(history, step, lambda at, fulls, v: 2 * v[-1] - v[-2]),
        "bdf2-heun": recursion(history, step, foca_paper),
    }
    channels = history[-1][1].shape[-1]
    columns = [of_solver[s.solvers[c % len(s.solvers)]][..., c] for c in range(channels)]
    return torch.stack(columns, dim=-1)


def freqca(s: FreqCa, history: History, step: int, context: StepContext) -> Tensor:
    """Both bands by themselves, as the authors' code: low by `min_order`, high by `max_order`."""
    low, high = [], []
    for at, value in history:
        band = value.clone()
        if s.decompose_method == "None":
            band = torch.zeros_like(value)
        else:
            img = context.layout.img_len
            band[:, :img] = low_band(s, value[:, :img], context.layout.grid)
        low.append((at, band))
        high.append((at, value - band))
    k, sigma = step - history[-1][0], s.scale_factor if s.forecast_method == "hermite" else None
    return sum(
        expanded(derivatives(band, orders, s.first_enhance), k, sigma)
        for band, orders in ((low, s.min_order), (high, s.max_order))
    )


def low_band(s: FreqCa, img: Tensor, grid: tuple[int, int, int]) -> Tensor:
    x = img.double().unflatten(1, grid)
    if s.decompose_method == "FFT":
        frequencies = [torch.fft.fftfreq(n, dtype=torch.float64) for n in grid]
        mask = within(frequencies, s.cutoff_ratio)
        back = torch.fft.ifftn(torch.fft.fftn(x, dim=(1, 2, 3)) * mask, dim=(1, 2, 3)).real
    else:
        mask = within([torch.arange(n).double() / n for n in grid], s.cutoff_ratio)
        matrices = [cosines(n) for n in grid]
        weights = torch.einsum("bthwc,xt,yh,zw->bxyzc", x, *matrices) * mask
        back = torch.einsum("bxyzc,xt,yh,zw->bthwc", weights, *matrices)
    return back.flatten(1, 3).to(img.dtype)


def within(frequencies: list[Tensor], ratio: float) -> Tensor:
    """A mask `[T, H, W, 1]` of the frequencies up to `ratio` of the largest."""
    squares = torch.meshgrid(*(f.square() for f in frequencies), indexing="ij")
    radius = sum(squares).sqrt()
    return (radius <= ratio * radius.max() + 1e-9)[..., None]


def cosines(size: int) -> Tensor:
    """The orthonormal DCT-II, `[size, size]`."""
    k, place = torch.arange(size)[:, None].double(), torch.arange(size)[None].double()
    matrix = (math.pi * k * (place + 0.5) / size).cos() * (2 / size) ** 0.5
    matrix[0] /= 2**0.5
    return matrix


FORECASTS: dict[type, Callable[..., Tensor]] = {
    Taylor: lambda s, history, step, context: expanded(
        derivatives(history, s.order), step - history[-1][0]
    ),
    Hermite: lambda s, history, step, context: expanded(
        derivatives(history, s.order), step - history[-1][0], s.contraction
    ),
    TaylorSeer: taylorseer,
    HiCache: hicache,
    DiffusersTaylor: lambda s, history, step, context: expanded(
        derivatives(history, s.max_order), step - history[-1][0]
    ),
    HalfTaylor: half_taylor,
    FoCa: foca,
    HyCa: hyca,
    FreqCa: freqca,
}
