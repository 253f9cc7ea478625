"""An estimate of a step in FP8 beside one in bf16, by work over stated rates: no GPU has timed it.

`python -m bench.fp8_estimate` prints it for the 13B model at 704x704x129. Products and attention by
their FLOPs, all else by the bytes that the ops move at least; what runs in FP8 is the table's.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torch import nn

from disca_rt.config import DiTConfig, predictor_config
from disca_rt.kernels.workload import REAL, Shapes
from disca_rt.markdown import table_lines
from disca_rt.models.blocks import SingleStreamBlock
from disca_rt.models.build import build_dit, build_predictor
from disca_rt.models.fp8 import layers_of
from disca_rt.models.fp8_table import COMPUTE, Fp8Table, Way, read_table

BIG = DiTConfig(meanflow=True)  # HunyuanVideo 1.0, 13B
SHAPES = REAL["1.0 704x704x129"]
EPILOGUE = 0.02  # of a product's time, for a GELU within it
GEMV_SHARE = 0.7  # of the copy rate, for a product of a vector
LAUNCH = 10e-6
TEXT_PRODUCTS = 210e-6  # those of a double block's text stream, which fill few multiprocessors
ENDS = 1.05e-3  # embedders, refiner, head and Euler step


class Rates(NamedTuple):
    """TFLOP/s and GB/s of an H200: measured there in bf16, published for FP8.

    `share` is that of the copy rate which ops on memory reach.
    """

    gemm: float = 750.0
    attention: float = 695.0
    fp8_gemm: float = 1250.0
    fp8_attention: float = 1040.0
    copy: float = 4300.0
    share: float = 0.92


H200 = Rates()


class Part(NamedTuple):
    """Seconds of one kind of work."""

    kind: str
    seconds: float


class Estimator:
    """Seconds of the parts of a model's blocks, whose layers run in `ways`."""

    def __init__(self, shapes: Shapes, ways: dict[str, Way], rates: Rates) -> None:
        self._ways, self._rates = ways, rates
        self._tokens, self._hidden = shapes.tokens, shapes.hidden
        self._tables = 2 * 4 * shapes.img * shapes.hidden // shapes.heads // 2

    def block(self, name: str, is_single: bool) -> Iterator[Part]:
        """The parts of the block called `name`."""
        yield from self._attention(name)
        yield from self._single(name) if is_single else self._double(name)

    def product(self, layer: str, fan_in: int, fan_out: int) -> Part:
        """A linear between `fan_in`·C and `fan_out`·C."""
        rate = self._rates.fp8_gemm if self._is_fp8(layer) else self._rates.gemm
        flops = 2 * self._tokens * self._hidden**2 * fan_in * fan_out
        return Part("products", flops / rate / 1e12)

    def passes(self, count: float, tables: int = 0) -> Part:
        """`count` reads or writes of an activation, and `tables` of the rotary tables."""
        moved = 2 * count * self._tokens * self._hidden + tables * self._tables
        return Part("ops on memory", moved / self._rates.copy / 1e9 / self._rates.share)

    def _is_fp8(self, layer: str) -> bool:
        return self._ways[layer] == "fp8"

    def _attention(self, name: str) -> Iterator[Part]:
        is_fp8 = self._is_fp8(f"{name}.attention")
        rate = self._rates.fp8_attention if is_fp8 else self._rates.attention
        yield Part("attention", 4 * self._tokens**2 * self._hidden / rate / 1e12)
        yield self.passes(3.0 if is_fp8 else 4.0, tables=2)  # norm and RoPE of q and k
        if is_fp8:
            yield self.passes(1.5)  # v

    def _norm(self, layer: str) -> Part:
        """A residual and its modulated norm."""
        return self.passes(3.5 if self._is_fp8(layer) else 4.0)

    def _gelu(self, layer: str, after: Part, width: int, before: int = 0) -> Part:
        """GELU of `width` activations: in the product `after` which it comes, or quantizing.

        Then with `before` activations beside it, on the way into `layer`.
        """
        if self._is_fp8(layer):
            return self.passes(1.5 * (width + before))
        return Part("products", EPILOGUE * after.seconds)

    def _vectors(self, count: int) -> Part:
        moved = 2 * count * self._hidden**2
        return Part("modulation", moved / self._rates.copy / 1e9 / GEMV_SHARE + LAUNCH)

    def _single(self, name: str) -> Iterator[Part]:
        first, second = f"{name}.linear1", f"{name}.linear2"
        yield self._norm(first)
        yield self.product(first, 1, 3)
        yield (half := self.product(first, 1, 4))
        yield self._gelu(second, half, 4, before=1)
        yield self.product(second, 5, 1)
        if not self._is_fp8(second):
            yield self.passes(1)  # the second product's sum, half of it hidden
        yield self._vectors(3)

    def _double(self, name: str) -> Iterator[Part]:
        qkv, proj = f"{name}.img_attn_qkv", f"{name}.img_attn_proj"
        first, second = f"{name}.img_mlp.fc1", f"{name}.img_mlp.fc2"
        yield self._norm(qkv)
        yield self.product(qkv, 1, 3)
        if self._is_fp8(proj):
            yield self.passes(1.5)
        yield self.product(proj, 1, 1)
        yield self._norm(first)
        yield (half := self.product(first, 1, 4))
        yield self._gelu(second, half, 4)
        yield self.product(second, 4, 1)
        yield Part("products", TEXT_PRODUCTS)
        yield self._vectors(12)


def step_parts(table: Fp8Table, rates: Rates) -> list[Part]:
    """The parts of a full step of the 13B model."""
    dit = build_dit(BIG)
    estimator = _estimator(dit, dit.blocks, table, rates, is_dit=True)
    return [*_blocks(estimator, dit, dit.blocks), *_ends(estimator)]


def predicted_parts(table: Fp8Table, rates: Rates) -> list[Part]:
    """The parts of a step that the DisCa predictor computes."""
    predictor = build_predictor(predictor_config(BIG))
    estimator = _estimator(predictor, predictor.blocks, table, rates, is_dit=False)
    first, second = "fusion_mlp.0", "fusion_mlp.2"
    is_fp8 = estimator._is_fp8(first)
    fusion = [
        estimator.product(first, 2, 1),
        estimator.product(second, 1, 1),
        estimator.passes(3.0 if is_fp8 else 1.0),  # the joint rows quantized, or summed
        estimator.passes(3.5 if is_fp8 else 2.0),  # SiLU, and its rows quantized
    ]
    return [*fusion, *_blocks(estimator, predictor, predictor.blocks), *_ends(estimator)]


def _estimator(
    module: nn.Module, blocks: list[nn.Module], table: Fp8Table, rates: Rates, is_dit: bool
) -> Estimator:
    names = {id(each): name for name, each in module.named_modules()}
    layers = list(layers_of(blocks, module))
    ways = table.ways(layers, [names[id(each)] for each in blocks], is_dit)
    return Estimator(SHAPES, ways, rates)


def _blocks(estimator: Estimator, module: nn.Module, blocks: list[nn.Module]) -> Iterator[Part]:
    names = {id(each): name for name, each in module.named_modules()}
    for block in blocks:
        yield from estimator.block(names[id(block)], isinstance(block, SingleStreamBlock))


def _ends(estimator: Estimator) -> Iterator[Part]:
    yield estimator.passes(3)
    yield Part("the rest", ENDS)


def sums(parts: list[Part]) -> dict[str, float]:
    """Seconds by kind."""
    found: dict[str, float] = {}
    for part in parts:
        found[part.kind] = found.get(part.kind, 0.0) + part.seconds
    return found


PLAIN = Fp8Table((("*", "16 bits"),))
ATTENTION = Fp8Table((("*", "16 bits"), ("*_blocks.*.attention", "fp8")))


def speedup(table: Fp8Table, rates: Rates = H200) -> float:
    """A full step in bf16 over one by `table`."""
    plain, ours = (sum(part.seconds for part in step_parts(t, rates)) for t in (PLAIN, table))
    return plain / ours


HEADER = (
    *("estimate", "attention, ms", "products", "ops on memory", "modulation", "full step"),
    *("speed-up", "predicted step"),
)


def table(ours: Fp8Table = COMPUTE, rates: Rates = H200) -> list[str]:
    """Lines of the table of docs/fp8.md, `ours` as its last row."""
    rows = {"bf16": PLAIN, "attention alone": ATTENTION, "`--fp8`": ours}
    return table_lines(HEADER, [_row(name, each, rates) for name, each in rows.items()])


def _row(name: str, layers: Fp8Table, rates: Rates) -> tuple[str, ...]:
    full = sums(step_parts(layers, rates))
    predicted = sum(sums(predicted_parts(layers, rates)).values())
    kinds = "attention", "products", "ops on memory", "modulation"
    milliseconds = (f"{1e3 * full[kind]:,.0f}" for kind in kinds)
    ends = f"{sum(full.values()):.2f} s", f"{speedup(layers, rates):.2f}"
    return name, *milliseconds, *ends, f"{1e3 * predicted:.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fp8_estimate", description=__doc__)
    parser.add_argument("--table", type=Path, help="a table of layers in place of the default")
    args = parser.parse_args()
    ours = COMPUTE if args.table is None else read_table(args.table)
    print("\n".join(table(ours)))
    print(f"\nRates: {', '.join(f'{k} {v:g}' for k, v in H200._asdict().items())}.")


if __name__ == "__main__":
    main()
