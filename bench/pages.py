"""Pages of results: a file's table and picture, the page of the kernels, the README's figures.

`python -m bench.pages RESULTS.jsonl KERNELS.md` writes them; without matplotlib no picture.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from disca_rt.atomic import write_whole
from disca_rt.measure.ladder import write_ladder
from disca_rt.measure.record import read_records
from disca_rt.measure.table import markdown

from . import kernel_page, readme_results


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pages", description=__doc__)
    parser.add_argument("results", type=Path, help="a results file")
    parser.add_argument("kernels", type=Path, help="the page of the kernels")
    parser.add_argument("--print", action="store_true", help="leave the README as it is")
    args = parser.parse_args(argv)
    records = read_records(args.results)
    texts = {
        args.results.with_suffix(".md"): markdown(records),
        args.kernels: kernel_page.page(kernel_page.gpu_records()),
    }
    for path, text in texts.items():
        write_whole(path, lambda partial, text=text: partial.write_text(text))
        print(f"wrote {path}")
    readme_results.main(["--print"] * args.print)
    picture = args.results.with_suffix(".png")
    try:
        write_ladder(picture, records)
        print(f"wrote {picture}")
    except ValueError as error:
        print(f"no picture: {error}")


if __name__ == "__main__":
    main()
