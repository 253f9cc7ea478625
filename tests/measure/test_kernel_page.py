"""docs/kernels.md is what its generator makes of the kernels, the launch table and the results."""

from pathlib import Path

from bench import kernel_page
from disca_rt.kernels.workload import REAL, shard
from disca_rt.measure.harness import Comparison, Contender, Elapsed, Timer, measure
from disca_rt.measure.machine import Machine

DOCS = Path(__file__).parents[2] / "docs"
GPU = Machine("GPU: abacus", 2, "default", "3.12.0", "2.11.0", None, "0.1.0")


def test_the_page_is_generated() -> None:
    assert (DOCS / "kernels.md").read_text() == kernel_page.page(kernel_page.gpu_records())


def test_measured_fractions_are_shown_by_device() -> None:
    one = next(iter(REAL.values()))
    seconds = iter([1.0, 1.0, 1.25, 1.0, 1.0, 2.0])
    timer = Timer(lambda run: Elapsed(next(seconds), 1.0), warmup=0)
    records = []
    for shapes in (one, shard(one, 8)):
        contenders = [Contender(name, lambda: None) for name in ("copy", "eager PyTorch", "ours")]
        comparison = Comparison(f"gate_residual, {shapes.name}", {}, "bfloat16", contenders, 1)
        records += measure(comparison, 1, GPU, 1, timer)
    page = kernel_page.page(records)
    row = next(line for line in page.splitlines() if line.startswith("| `gate_residual` |"))
    assert row.endswith("| GPU: abacus: 0.80 (1 rank), 0.50 (8 ranks) |")
    assert "No GPU has run these yet" not in page
