"""Results in the README, from the JSON lines of bench/results: `python -m bench.readme_results`.

Shown are our steps and samples, against the baseline that each took turns with; ops, exchanges
and growth have pages of their own. With --print the README stays as it is.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from disca_rt.atomic import write_whole
from disca_rt.kernels.op_table import OP_ROWS
from disca_rt.markdown import table_lines
from disca_rt.measure.record import Record, read_records
from disca_rt.units import time_unit

from .growth_record import GROWTH
from .run import RESULTS

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- results: python -m bench.readme_results -->", "<!-- end of results -->"
OURS = "ours", "predicted step", "disca", "DisCa"
HEADER = "device", "what", "ours", "against", "time", "ratio"


def results(folder: Path = RESULTS) -> str:
    """Markdown of the newest line of each contender; it first says which figures are a CPU's."""
    newest: dict[tuple, Record] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for record in filter(_is_shown, read_records(path)):
            known = newest.get(record.identity)
            if known is None or known.time < record.time:
                newest[record.identity] = record
    lines = table_lines(HEADER, map(_cells, newest.values()))
    return "\n".join([_devices(list(newest.values())), "", *lines]) + "\n"


def _is_shown(record: Record) -> bool:
    name = record.benchmark.partition(",")[0]
    is_model = name not in (*OP_ROWS, GROWTH) and not record.sent_bytes
    return is_model and record.contender != record.baseline and record.contender.startswith(OURS)


def _devices(records: Sequence[Record]) -> str:
    on_cpu = [record for record in records if record.device.startswith("CPU")]
    if not on_cpu:
        return "All figures are a GPU's."
    meaning = "of a CPU's only the ratios mean something elsewhere"
    if len(on_cpu) == len(records):
        return f"**Every figure here is a CPU's**, none a GPU's; {meaning}."
    return f"**Figures of devices called CPU are a CPU's**, the others a GPU's; {meaning}."


def _cells(record: Record) -> tuple[str, ...]:
    threads = f", {record.threads} thread{'s' * (record.threads != 1)}"
    threads = threads if record.device.startswith("CPU") else ""
    ranks = f", {record.ranks} ranks" if record.ranks > 1 else ""
    weights = f", {record.weights} weights" if record.weights.startswith("random") else ""
    unit, scale = time_unit(record.median_s)
    return (
        f"{record.device}{threads}{ranks}",
        f"{record.benchmark}, {record.dtype}{weights}",
        record.contender,
        record.baseline,
        f"{record.median_s * scale:,.3g} {unit}",
        f"{record.ratio:.2f} ({record.ratio_p5:.2f} – {record.ratio_p95:.2f})",
    )


def with_results(readme: str, section: str) -> str:
    """Text of `readme` with `section` between its marks; ValueError where it has none."""
    before, _, rest = readme.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"README.md must have {BEGIN} and {END}; put them where the results go")
    return f"{before}{BEGIN}\n{section}{END}{after}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.readme_results", description=__doc__)
    parser.add_argument("--print", action="store_true", help="only print what it would write")
    section = results()
    if parser.parse_args(argv).print:
        print(section, end="")
        return
    text = with_results(README.read_text(), section)
    write_whole(README, lambda partial: partial.write_text(text))


if __name__ == "__main__":
    main()
