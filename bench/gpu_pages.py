"""Pages of what `bench/gpu.sh` wrote, made on any machine: `python -m bench.gpu_pages FOLDER`.

The folder's results go to bench/results/<gpu>-<date>.jsonl, its launch table into the package's,
its goals into docs/gpu.md; then the pages of `bench.pages` are written.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from disca_rt.atomic import write_whole
from disca_rt.kernels.launch_table import PACKAGED, read_json
from disca_rt.measure.record import file_stem, read_records, write_records

from . import pages
from .gpu_goals import Measured, goals
from .run import RESULTS

ROOT = Path(__file__).parents[1]
PAGE, KERNELS = ROOT / "docs" / "gpu.md", ROOT / "docs" / "kernels.md"
TITLE = "# A GPU against its goals"


def read(folder: Path) -> Measured:
    """All that the folder has; SystemExit where it has no results."""
    results = folder / "results.jsonl"
    if not results.is_file():
        raise SystemExit(f"gpu_pages: error: no {results}; name a folder of bench/gpu.sh")
    return Measured(
        read_records(results), _lines(folder / "profile"), _lines(folder / "profile-fp8")
    )


def _lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / "table.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def page(measured: Measured) -> str:
    """Markdown: the machine, then the table of goals."""
    first = measured.records[0]
    versions = "".join(f", {name} {number}" for name, number in first.libraries.items())
    about = f"{first.device}, PyTorch {first.torch}{versions}, {first.time[:10]}"
    note = "Ratios of one run, made by `bench/gpu.sh` and `python -m bench.gpu_pages`."
    return "\n".join([TITLE, "", f"{about}. {note}", "", *goals(measured)]) + "\n"


def keep(folder: Path, measured: Measured) -> Path:
    """Puts results and launches where the project keeps them; returns the results file."""
    first = measured.records[0]
    path = RESULTS / f"{file_stem(first.device)}-{first.time[:10]}.jsonl"
    write_records(path, measured.records)
    tuned = folder / "launch_table.json"
    if tuned.is_file():
        merged = {**read_json(PACKAGED), **read_json(tuned)}
        text = json.dumps(merged, indent=1, sort_keys=True) + "\n"
        write_whole(PACKAGED, lambda partial: partial.write_text(text))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_pages", description=__doc__)
    parser.add_argument("folder", type=Path, help="what bench/gpu.sh wrote: out/gpu")
    parser.add_argument("--print", action="store_true", help="print the goals, keep nothing")
    args = parser.parse_args()
    measured = read(args.folder)
    text = page(measured)
    print(text, end="")
    if args.print:
        return
    path = keep(args.folder, measured)
    write_whole(PAGE, lambda partial: partial.write_text(text))
    pages.main([str(path), str(KERNELS)])


if __name__ == "__main__":
    main()
