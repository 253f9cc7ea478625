"""`python -m bench.kernel_page > docs/kernels.md`: the page about the kernels.

Their own files say what they compute, the table of ops how many bytes they move, the launch table
how they are launched, and the results of `bench.run --device cuda` what was measured.
"""

import argparse
import inspect
import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

import torch

from disca_rt.kernels import reference
from disca_rt.kernels.fused import implementation
from disca_rt.kernels.launch import default_of
from disca_rt.kernels.launch_table import MODELLED, OPS, Choice, read_ops
from disca_rt.kernels.op_table import OP_ROWS, TUNED, Call, calls
from disca_rt.kernels.workload import REAL, Shapes, shard
from disca_rt.markdown import table_lines
from disca_rt.measure.record import Record, read_records

FIGURES = Path(__file__).parent / "sass" / "figures.json"  # of `python -m bench.sass.table`
RESULTS = Path(__file__).parent / "results"
INTRO = """\
# Kernels

One file each in `kernels/`; `kernels/reference.py` has the same names in plain PyTorch and is what
they are tested against. All take bf16, fp16 and fp32 and compute in fp32, with int64 addresses
(`euler_step` within a sample int32). An op is done when it moves little more than its minimum; U is
one activation, S·C values.

GEMMs are the library's: what surrounds them is arranged so that nothing is concatenated.
`joint_linear` has two GEMMs write into one tensor, `pair_linear` (a single-stream block's `linear2`
and, as `fuse_cached`, the predictor's front end) has two GEMMs add up, and GELU is in the
GEMM's epilogue on a GPU, unless `disca-rt tune` found a pass in place faster.

On a CPU the ops that are bound by memory are loops in C++ (`--ops native`, `kernels/native.py`,
`csrc/cpu_kernels.cpp`): one pass over rows that stay in the nearest cache, compiled for three
levels of x86-64 of which the library takes the machine's, in PyTorch's threads, for fp32 and bf16.
They are held to fp64 as the kernels are, and no bit depends on the number of threads. What they are
not for (gradients, compilers, other dtypes) is the reference's, within the op.

Launches go by a table, `[rows, num_warps, turns]` of a program by device, op and width, which
`disca-rt tune` measures on a GPU and writes into `kernels/launch_table.json`; a device it lacks
gets the default. A row is a token's values, or 1,024 elements where an op is on flat memory. A
program takes its rows in turns, with the vectors of its sample in registers, and fewer turns where
rows are few. Where the package cannot be written, `disca-rt tune --out FILE.json` writes another
table, and with `DISCA_RT_LAUNCH_TABLE=FILE.json` in the environment launches go by that. Until an
op is measured an H200 launches it by the section "modelled", which `python -m bench.sass.table`
makes of the compiled code: a guess.

Issue / bytes is such a guess, too, and no measurement: instructions × warps × programs of the
default launch over what an H200 issues (132 multiprocessors × 4 × 1.98 GHz, counted in the code for
sm_90), against the fewest bytes at 4.3 TB/s. A kernel that streams rarely passes 0.85 of a copy
where it is above one half. The compile gate holds it to 0.45, GELU to 0.35. Exceptions: `head` does
products (about 0.1 ms more than its bytes take, once a step, and less than the two ops that it
replaces, which move three times as much); `layer_norm` is of a few hundred rows, so that its launch
is what it takes; `euler_step` gathers patches; norms that quantize move fewer bytes and do more
with each value: above one half, so that less is gained by them than by their bytes. GELU's two
special functions a value take half of the time of its bytes.

`block_sparse_attention` is limited by its products, not by bytes: its row has the FLOPs of one call
in which each block of queries attends to a sixteenth of the tokens, and its launch is a tile of
queries and keys.

Where a gradient is wanted, forward is the kernel's and backward the reference's, run again on what
the op was given; ops made of GEMMs alone are the reference's, whose products are kept. `out=` is
ignored there. Forward-mode differentiation and second derivatives are refused, and gradients of
`finite_differences`, which works in place. What a policy that reuses residuals needs is
`gate_residual` with a gate of one; where whole blocks are replaced `gated_sum` adds what was kept
of several of them, forecasts term by term, so that tokens are read and written once.
"""

HEADER = (
    "op",
    "moves at least",
    "issue / bytes, 1.0",
    "1.5",
    "launch at 1.0's width",
    "at 1.5's",
    "fraction",
)


def page(records: Sequence[Record]) -> str:
    """Markdown: the table of all kernels, then a section on each."""
    first, _, last = REAL.values()
    ten, fifteen = (calls(each, _on_meta) for each in (first, last))
    ratios = json.loads(FIGURES.read_text())["ratios"]
    rows = [
        (
            f"`{op}`",
            _units(make_call(), first),
            *(_ratio(ratios, op, each) for each in (first, last)),
            _launch(op, make_call()),
            _launch(op, fifteen[op]()),
            _measured(op, records),
        )
        for op, make_call in ten.items()
    ]
    parts = [INTRO, *table_lines(HEADER, rows), "", _note(records)]
    parts += [f"## {op}\n\n{_about(op)}\n" for op in ten]
    return "\n".join(parts)


def _on_meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _units(call: Call, shapes: Shapes) -> str:
    if call.op == "block_sparse_attention":
        return f"{OP_ROWS[call.op].work(*call.args).flops / 1e12:.1f} TFLOP"
    if not call.minimum_bytes:
        return "GEMM"
    units = call.minimum_bytes / (2 * shapes.tokens * shapes.hidden)
    return f"{units:.2g} U" if units >= 0.1 else f"{call.minimum_bytes / 1e6:.0f} MB"


def _ratio(ratios: Mapping[str, Mapping[str, float]], op: str, shapes: Shapes) -> str:
    """Issue time over the time of bytes, where bytes limit the op."""
    ratio = ratios.get(op, {}).get(shapes.name)
    return "–" if ratio is None else f"{ratio:.2f}"


def _launch(op: str, call: Call) -> str:
    """Launches by device of the launch table; the default where it has none."""
    if op not in TUNED:
        return "the library's"
    shown = {
        f"{device}{note}": _choice(by_op[op][str(call.width)])
        for section, note in ((MODELLED, " (modelled)"), (OPS, ""))
        for device, by_op in read_ops(section=section).items()
        if str(call.width) in by_op.get(op, {})
    }
    shown = shown or {"default": _choice(default(op, call.width))}
    return "; ".join(f"{device}: {entry}" for device, entry in shown.items())


def default(op: str, width: int) -> Choice:
    """The launch of `op` on a device that the table does not know."""
    own = getattr(import_module(f"disca_rt.kernels.{op}"), "DEFAULT", None)
    return own or default_of(op, width)


def _choice(choice: Choice) -> str:
    if isinstance(choice, str):
        return choice
    rows = "row" if choice.rows == 1 else "rows"
    turns = f", {choice.turns} times" if choice.turns > 1 else ""
    return f"{choice.rows} {rows}{turns}, {choice.num_warps} warps"


def _measured(op: str, records: Sequence[Record]) -> str:
    """Fractions by device, for 1.0 at 704x704x129 alone and as one of eight ranks."""
    one = next(iter(REAL.values()))
    shown = []
    for device in dict.fromkeys(record.device for record in records):
        parts = []
        for shapes, label in ((one, "1 rank"), (shard(one, 8), "8 ranks")):
            for record in records:
                if (record.device, record.benchmark) != (device, f"{op}, {shapes.name}"):
                    continue
                if record.contender.startswith("ours"):
                    name = record.contender.removeprefix("ours").strip(", ")
                    what = ", ".join(part for part in (name, label) if part)
                    parts.append(f"{1 / record.ratio:.2f} ({what})")
        if parts:
            shown.append(f"{device}: {', '.join(parts)}")
    return "; ".join(shown) or "not measured yet"


def _note(records: Sequence[Record]) -> str:
    if records:
        return (
            "Fractions are of a device copy in the same run, the goal 0.90; those of products of "
            "the time of the same with a concatenation (`linear_gelu`: without GELU).\n"
        )
    return (
        "No GPU has run these yet. On a machine with one, `disca-rt tune` writes the launch table, "
        "`python -m bench.run --device cuda --only ops` the results, and "
        "`python -m bench.kernel_page` this page; the goal is 0.90 each.\n"
    )


def _about(op: str) -> str:
    """The op's specification where the row has it, then what the kernel's file adds."""
    module = inspect.getmodule(inspect.unwrap(implementation(op)))
    own = inspect.cleandoc(module.__doc__ or "")
    specified = inspect.getdoc(getattr(reference, op)) if hasattr(reference, op) else None
    path = f"`kernels/{module.__name__.rpartition('.')[2]}.py`"
    return "\n\n".join([*([specified] if specified else []), own, path])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kernel_page", description=__doc__)
    parser.parse_args(argv)
    print(page(gpu_records()), end="")


def gpu_records() -> list[Record]:
    """Everything that `bench.run --device cuda` has measured, by device, oldest first."""
    records = [record for path in sorted(RESULTS.glob("*.jsonl")) for record in read_records(path)]
    return [record for record in records if record.device.startswith("GPU")]


if __name__ == "__main__":
    main()
