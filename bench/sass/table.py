"""`python -m bench.sass.table`: what the model says of all kernels, and the launches it chooses.

Writes the figures that docs/kernels.md shows, and the section "modelled" of an H200 in the
package's launch table, by which ops are launched that no `disca-rt tune` has measured. Compiles
every candidate: minutes.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import triton

from disca_rt.commands.tune import write_winners
from disca_rt.kernels.launch import default_of, trying
from disca_rt.kernels.launch_table import MODELLED, PACKAGED, Choice, LaunchConfig
from disca_rt.kernels.op_table import OP_ROWS, calls
from disca_rt.kernels.tune import Timing, candidates, winners
from disca_rt.kernels.workload import REAL, Shapes

from .compiled import compiled, disassembled, missing_tools, usage
from .launches import Launch, launches_of, on_meta, recorded
from .model import H200, Estimate, estimate

FIGURES = Path(__file__).with_name("figures.json")


def estimates(launches: Iterable[Launch]) -> Iterator[tuple[Launch, Estimate]]:
    """Those of all launches that bytes limit, each kernel read once."""
    limited = [each for each in launches if each.minimum_bytes]
    cubins = [compiled(each, H200.architecture).asm["cubin"] for each in limited]
    distinct = list(dict.fromkeys(cubins))
    codes = dict(zip(distinct, disassembled(distinct, H200.architecture), strict=True))
    registers = {cubin: usage(cubin)["registers"] for cubin in distinct}
    for launch, cubin in zip(limited, cubins, strict=True):
        yield launch, estimate(launch, codes[cubin], registers[cubin])


def write_figures() -> None:
    """Issue time over the time of bytes, by op and real shape, of the default launches."""
    ratios: dict[str, dict[str, float]] = {}
    for launch, each in estimates(recorded(REAL.values())):
        ratios.setdefault(launch.op, {})[launch.shapes] = round(each.ratio, 2)
    text = json.dumps({"triton": triton.__version__, "ratios": ratios}, indent=1)
    FIGURES.write_text(text + "\n")


def modelled(shapes: Shapes) -> Iterator[Timing]:
    """Guesses in place of the times that `disca-rt tune` would measure of ops in turns."""
    launches = list(_tried(shapes))
    seconds: dict[str, dict[Choice | None, float]] = {}
    found = estimates(launch for _, launch in launches)
    for (choice, launch), (_, each) in zip(launches, found, strict=True):
        seconds.setdefault(launch.op, {})[choice] = each.seconds()
    for op, of_op in seconds.items():
        yield Timing(op, shapes.name, shapes.hidden, of_op)


def _tried(shapes: Shapes) -> Iterator[tuple[LaunchConfig, Launch]]:
    """The launches by the candidates of the default's tile, which differ in turns.

    More warps have narrower accesses, fewer more registers than the compile gate allows.
    """
    for op, make_call in calls(shapes, on_meta).items():
        launches, call = OP_ROWS[op].launches, make_call()
        if launches is None or launches.turns == (1,):
            continue
        tile = default_of(op, call.width)[:2]
        for choice in candidates(op, call.width):
            if choice[:2] == tile:
                with trying({op: choice}):
                    yield from ((choice, each) for each in launches_of(call, shapes.name))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sass.table", description=__doc__)
    parser.add_argument("--figures", action="store_true", help="the figures alone: half a minute")
    args = parser.parse_args(argv)
    if lacking := missing_tools():
        parser.error(f"this Triton comes without {', '.join(lacking)}; its Linux wheels have them")
    write_figures()
    if not args.figures:
        chosen = winners(chain.from_iterable(map(modelled, REAL.values())))
        write_winners(PACKAGED, H200.name, {MODELLED: chosen})


if __name__ == "__main__":
    main()
