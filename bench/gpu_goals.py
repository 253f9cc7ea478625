"""Goals that a GPU is held to, and what one run of `bench/gpu.sh` has measured of each.

Knows the names of benchmarks, contenders and classes; reads results files and profiles, measures
nothing. What a file does not have is said to be not measured.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from disca_rt.kernels.op_table import OP_ROWS
from disca_rt.markdown import table_lines
from disca_rt.measure.ceilings import SUSTAINED
from disca_rt.measure.record import Record
from disca_rt.profiling.classes import ATTENTION, GEMM
from disca_rt.units import byte_text

HEADER = "goal", "what", "wanted", "measured"
ABSENT = "not measured"


class Measured(NamedTuple):
    """All that a run has measured: records of benchmarks, lines of profiles in bf16 and in FP8."""

    records: Sequence[Record]
    profile: Sequence[dict[str, Any]]
    profile_fp8: Sequence[dict[str, Any]]

    def find(self, benchmark: str, contender: str = "") -> list[Record]:
        """Records whose benchmark and contender begin with these."""
        return [
            record
            for record in self.records
            if record.benchmark.startswith(benchmark) and record.contender.startswith(contender)
        ]

    def fastest(self, benchmark: str, contender: str) -> Record | None:
        """The fastest record that `find` has."""
        found = self.find(benchmark, contender)
        return min(found, key=lambda record: record.median_s, default=None)


def goals(measured: Measured) -> list[str]:
    """Lines of a Markdown table: one row a goal."""
    rows = [(*row[:3], row[3](measured) or ABSENT) for row in GOALS]
    return table_lines(HEADER, rows)


def _share(record: Record, of: Sequence[Record]) -> float:
    """Rate of `record` over that of the square product of its own comparison."""
    base = next(r for r in of if r.comparison == record.comparison and r.contender == r.baseline)
    return record.gflops_per_s / base.gflops_per_s


def _attention(measured: Measured) -> str:
    rows = [r for r in measured.find("attention") if r.contender != r.baseline]
    shares = [f"{r.contender} {_share(r, measured.records):.3f} ({_heads(r)})" for r in rows]
    return ", ".join(shares)


def _heads(record: Record) -> str:
    return f"{record.shape['heads']} heads"


def _linears(measured: Measured) -> str:
    rows = measured.find("linear ", "bf16")
    named = [(r.benchmark.removeprefix("linear "), _share(r, measured.records)) for r in rows]
    return ", ".join(f"{name} {share:.3f}" for name, share in named)


def _ops(measured: Measured) -> str:
    """Fractions of copy bandwidth, the least first, of one GPU alone."""
    fractions = [
        (1 / r.ratio, r.benchmark.partition(",")[0])
        for r in measured.find("", "ours")
        if r.benchmark.partition(",")[0] in OP_ROWS
        and r.baseline == "copy"
        and "ranks" not in r.benchmark
    ]
    return ", ".join(f"{op} {fraction:.2f}" for fraction, op in sorted(fractions))


def _outside(measured: Measured) -> str:
    shares: dict[str, float] = {}
    for line in measured.profile:
        if line["level"] == "step":
            inside = line["share"] if line["class"] in (GEMM, ATTENTION) else 0.0
            shares[line["kind"]] = shares.get(line["kind"], 1.0) - inside
    return ", ".join(f"{share:.2%} of a {kind} step" for kind, share in shares.items())


def _full_rate(measured: Measured) -> str | None:
    full = measured.fastest("full step,", "ours")
    if full is None or full.mfu is None:
        return None
    sustained = next((r.mfu for r in measured.find(SUSTAINED)), None)
    more = "" if sustained is None else f"; {full.mfu / sustained:.3f} of the sustained product's"
    return f"{full.mfu:.3f}{more}"


def _against_eager(measured: Measured) -> str | None:
    full = measured.fastest("full step,", "ours")
    if full is None:
        return None
    rivals = [r for r in measured.find("full step,", "eager") if r.comparison == full.comparison]
    return ", ".join(f"{r.contender} {r.median_s / full.median_s:.3f}" for r in rivals)


def _predicted(measured: Measured) -> str | None:
    steps = measured.fastest("predicted step,", "predicted step")
    return None if steps is None else f"{steps.ratio:.4f}"


def _speed_up(measured: Measured) -> str | None:
    full = measured.fastest("full step,", "ours")
    sample = measured.fastest("sample", "disca")
    if full is None or sample is None:
        return None
    return f"{100 * full.median_s / sample.median_s:.2f}"


def _busy(measured: Measured) -> str | None:
    shares = [r.busy for r in measured.find("sample", "disca") if r.busy is not None]
    return f"{max(shares):.4f}" if shares else None


def _fp8(measured: Measured) -> str:
    """Speed-ups over bf16: of a profiled step, of each linear, and rates of attention in FP8."""
    said = []
    times = [
        {line["kind"]: line["time_s"] for line in lines if line["class"] == "all"}
        for lines in (measured.profile, measured.profile_fp8)
    ]
    said += [f"{kind} step {times[0][kind] / time:.2f}" for kind, time in times[1].items()]
    for record in measured.find("linear ", "FP8"):
        plain = next(r for r in measured.find(record.benchmark, "bf16"))
        name = f"{record.benchmark.removeprefix('linear ')}{record.contender.removeprefix('FP8')}"
        said.append(f"{name} {plain.median_s / record.median_s:.2f}")
    return ", ".join(said)


def _memory(measured: Measured) -> str | None:
    sample = measured.fastest("sample", "disca")
    return byte_text(sum(sample.memory.values())) if sample and sample.memory else None


GOALS: tuple[tuple[str, str, str, Callable[[Measured], str | None]], ...] = (
    ("P1", "attention's rate / the square product's", "≥ 0.88", _attention),
    ("P2", "a linear's rate / the square product's", "≥ 0.95", _linears),
    ("P3", "an op's share of copy bandwidth", "≥ 0.90", _ops),
    ("P4", "share outside GEMM and attention", "≤ 2 % of a full step", _outside),
    ("P5", "full step's rate / the square product's", "≥ 0.87", _full_rate),
    ("P6", "a reference's full step / ours", "≥ 1.12 eager, 1.75 FA2", _against_eager),
    ("P7", "predicted step / full step", "≤ 0.036", _predicted),
    ("P8", "100 full steps / a sample of 8 full and 12 predicted", "≥ 11.6", _speed_up),
    ("P9", "GPU busy / wall over a sample", "≥ 0.995", _busy),
    ("P10", "bf16 / FP8", "≥ 1.40 of a full step", _fp8),
    ("P12", "peak memory of a sample", "≤ 45 GB", _memory),
)
