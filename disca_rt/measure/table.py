"""Markdown page of a results file: `python -m disca_rt.measure.table FILE.jsonl`."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..markdown import table_lines
from ..units import byte_text, time_text
from .harness import spread
from .record import Record, read_records

DECODE = "decode"  # a stage of the embedded model only
HEADER = (
    "benchmark",
    "threads",
    "contender",
    "median",
    "p5 – p95",
    "GFLOP/s",
    "GB/s",
    "MFU",
    "sent by a rank",
    "passes over memory",
    "ratio",
    "p5 – p95",
    "CPU-time ratio",
    "FLOP ratio",
    "goal",
)


def markdown(records: Sequence[Record]) -> str:
    """Page of `records`: machines, results, stages, memory, shapes and notes.

    Ratios are to a benchmark's first row; MFU is the share of a matrix product's rate in that run.
    """
    parts = [machine_lines(records), _table(HEADER, map(_cells, records)), *_stages(records)]
    parts += [_memory(records), _shapes(records)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table, without the columns that are empty in every row."""
    columns = [column for column in zip(header, *rows, strict=True) if any(column[1:])]
    header, *rows = zip(*columns, strict=True)
    return table_lines(header, rows)


def _stages(records: Sequence[Record]) -> list[list[str]]:
    """Tables, one for each contender with stages, of how the time of a sample divides."""
    tables = []
    for record in records:
        if not record.stages:
            continue
        totals = [sum(sample) for sample in zip(*record.stages.values(), strict=True)]
        rows = []
        for stage, seconds in record.stages.items():
            taken = spread(seconds)
            share = spread([s / total for s, total in zip(seconds, totals, strict=True)])
            ends = f"{time_text(taken.p5)} – {time_text(taken.p95)}"
            rows.append((stage, time_text(taken.median), ends, f"{share.median:.1%}"))
        title = f"{record.benchmark}, {record.contender}"
        tables.append(_table((title, "median", "p5 – p95", "share"), rows))
    return tables


def _memory(records: Sequence[Record]) -> list[str]:
    lines = []
    for record in records:
        if not record.memory:
            continue
        said = ", ".join(f"{name} {byte_text(size)}" for name, size in record.memory.items())
        total = byte_text(sum(record.memory.values()))
        busy = "" if record.busy is None else f"; device busy {record.busy:.1%} of the time"
        lines.append(
            f"- {record.benchmark}, {record.contender}: peak memory {total} ({said}){busy}."
        )
    return lines


def _cells(record: Record) -> list[str]:
    is_baseline = record.contender == record.baseline
    return [
        record.benchmark,
        str(record.threads),
        record.contender,
        time_text(record.median_s),
        f"{time_text(record.p5_s)} – {time_text(record.p95_s)}",
        f"{record.gflops_per_s:.1f}" if record.flops else "",
        f"{record.gb_per_s:,.0f}" if record.minimum_bytes else "",
        "" if record.mfu is None else f"{record.mfu:.1%}",
        byte_text(record.sent_bytes, digits=2) if record.sent_bytes else "",
        f"{record.passes:.4g}" if record.passes else "",
        "1 (baseline)" if is_baseline else f"**{record.ratio:.3f}**",
        "" if is_baseline else f"{record.ratio_p5:.3f} – {record.ratio_p95:.3f}",
        "" if is_baseline else f"{record.cpu_ratio:.3f}",
        "" if is_baseline or record.flop_ratio is None else f"{record.flop_ratio:.3f}",
        "" if record.goal is None else f"≤ {record.goal:g}",
    ]


def machine_lines(records: Sequence[Record]) -> list[str]:
    """Lines, each once, of the machines and versions that the records are of."""
    lines = [
        f"{r.device}, {r.cpus} cores; PyTorch {r.torch}, diffusers {r.diffusers or 'absent'}, "
        f"Python {r.python}, disca_rt {r.disca_rt}; {r.time[:10]}; "
        f"OMP_WAIT_POLICY {r.omp_wait_policy}; machine otherwise idle: {r.otherwise_idle}"
        + "".join(f"; {name} {version}" for name, version in r.libraries.items())
        + "."
        for r in records
    ]
    return [*dict.fromkeys(lines)]  # each once


def _shapes(records: Sequence[Record]) -> list[str]:
    lines = []
    for r in records:
        shape = ", ".join(f"{name} {value}" for name, value in r.shape.items())
        same = _sameness(r.relative_difference)
        weights = f", {r.weights} weights" if r.weights else ""
        ranks = f", {r.ranks} ranks" if r.ranks > 1 else ""
        lines.append(
            f"- {r.benchmark}: {shape}, {r.dtype}{weights}{ranks}, {r.samples} samples{same}."
        )
        if r.stages and DECODE not in r.stages:
            lines.append(f"- {r.benchmark}: no {DECODE}, as no VAE of this model is here.")
        if r.note:
            lines.append(f"- {r.benchmark}, {r.contender}: {r.note}.")
    return [*dict.fromkeys(lines)]  # each once


def _sameness(relative_difference: float | None) -> str:
    if relative_difference is None:
        return ""
    return "; outputs agree " + ("to 1e-5" if relative_difference else "bit by bit")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m disca_rt.measure.table", description=__doc__)
    parser.add_argument("file", type=Path, help="a results file")
    print(markdown(read_records(parser.parse_args(argv).file)), end="")


if __name__ == "__main__":
    main()
