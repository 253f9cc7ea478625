"""Figures in the documents can be made again: commands exist, and pages are what they print."""

import importlib.util
import re
import shlex
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bench import fp8_estimate, memory_table
from disca_rt.cli import build_parser, main
from disca_rt.measure.record import read_records
from disca_rt.measure.table import markdown

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
FLAG = re.compile(r"--[a-z][a-z0-9-]*")
COMMAND = re.compile(r"disca-rt [a-z]|python -m |pytest |make [a-z]")
RESULTS = ROOT / "bench" / "results"


def text_of(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def commands(text: str) -> Iterator[list[str]]:
    """Words of every command line in blocks and code spans of a page."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    for line in (*lines, *(" ".join(span.split()) for span in spans)):
        for command in re.split(r" && |\|", line.partition(" #")[0]):
            if COMMAND.search(command):
                yield shlex.split(command)


def flags_of_subcommands() -> dict[str, set[str]]:
    actions = build_parser()._actions
    (subparsers,) = (each for each in actions if isinstance(each, _SubParsersAction))
    return {name: flags_of(parser) for name, parser in subparsers.choices.items()}


def flags_of(parser: ArgumentParser) -> set[str]:
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            found.update(*map(flags_of, action.choices.values()))
    return found


def unknown(words: list[str], subcommands: dict[str, set[str]]) -> list[str]:
    """What the command does not know: subcommand, module, target or flags."""
    program, rest = Path(words[0]).name, words[1:]
    if program in ("torchrun", "python") and "-m" in rest:
        last = len(rest) - rest[::-1].index("-m")
        program, rest = rest[last], rest[last + 1 :]
    if program in ("disca-rt", "disca_rt"):
        name = rest[0] if rest else "generate"
        known = subcommands.get(name)
        return [name] if known is None else sorted({*filter(FLAG.fullmatch, rest)} - known)
    if program.startswith(("bench.", "disca_rt.")):
        module = importlib.util.find_spec(program)
        source = "" if module is None else Path(module.origin).read_text()
        missing = [flag for flag in filter(FLAG.fullmatch, rest) if f'"{flag}"' not in source]
        return missing if source else [program]
    if program == "make":
        makefile = (ROOT / "Makefile").read_text()
        targets = [word for word in rest if re.fullmatch("[a-z-]+", word)]
        return [each for each in targets if not re.search(rf"^{each}:", makefile, re.MULTILINE)]
    if program == "pytest":
        paths = [word for word in rest if word.startswith("tests")]
        return [path for path in paths if not (ROOT / path.partition("::")[0]).exists()]
    return []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_named_exist(page: Path) -> None:
    subcommands = flags_of_subcommands()
    wrong = {" ".join(words): unknown(words, subcommands) for words in commands(page.read_text())}
    assert not {command: what for command, what in wrong.items() if what}


class Section(NamedTuple):
    """Part of a page under a heading, and the text of those around it without blocks.

    A block shows what can be done, not what has made the figures of parts within.
    """

    heading: str
    text: str
    around: str


def sections(page: str) -> Iterator[Section]:
    outer: list[tuple[int, str]] = []
    for part in re.split(r"^(?=#+ )", page, flags=re.MULTILINE):
        heading = part.partition("\n")[0]
        level = len(heading) - len(heading.lstrip("#"))
        outer = [each for each in outer if each[0] < level]
        yield Section(heading, part, "".join(text for _, text in outer))
        outer.append((level, re.sub("```.*?```", "", part, flags=re.DOTALL)))


def has_figures(section: str) -> bool:
    """True where most cells of a table are numbers."""
    rows = re.findall(r"^\|(.*)\|$", section, flags=re.MULTILINE)
    cells = [cell.strip(" *") for row in rows for cell in row.split("|")[1:]]
    filled = [cell for cell in cells if cell.strip("-: ")]
    numbers = [cell for cell in filled if re.match(r"[-+≤]?\d[\d.,]*( |%|$)", cell)]
    return len(numbers) > len(filled) / 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_of_figures_name_the_command_that_made_them(page: Path) -> None:
    nameless = [
        section.heading
        for section in sections(page.read_text())
        if has_figures(section.text) and not COMMAND.search(section.around + section.text)
    ]
    assert not nameless


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("benchmarks-cpu.md", "cpu-2026-11-21.jsonl"),
        ("benchmarks-pipeline.md", "pipeline-2026-11-30.jsonl"),
    ],
)
def test_pages_of_results_are_those_of_their_lines(name: str, lines: str) -> None:
    assert f"bench/results/{lines}" in text_of(name)
    assert markdown(read_records(RESULTS / lines)) in text_of(name)


def test_the_table_of_memory_is_the_formula_s() -> None:
    assert "\n".join(memory_table.lines()) in text_of("memory.md")


def test_the_table_of_fp8_is_the_estimate_s() -> None:
    assert "\n".join(fp8_estimate.table()) in text_of("fp8.md")


@pytest.mark.slow
def test_the_table_of_ranks_is_the_plan_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--world-sizes", "2,4,8,16,64"]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert "\n".join(table) in text_of("sequence-parallel.md")


def test_the_table_of_exchanges_is_that_of_its_lines() -> None:
    (path,) = RESULTS.glob("exchange-*.jsonl")
    ratios = {(r.benchmark, r.contender): f"{r.ratio:.2f}" for r in read_records(path)}
    columns = {
        "torch functional": ("torch functional collectives",),
        "torch shard_dim": ("torch shard_dim_alltoall",),
        "diffusers": ("diffusers Ulysses", "diffusers Ulysses Anything"),
        "ours": ("ours",),
        "ours, K and Q packed": ("ours, k and q packed",),
    }
    for shape in dict.fromkeys(benchmark for benchmark, _ in ratios):
        row = [
            next((ratios[shape, name] for name in names if (shape, name) in ratios), "")
            for names in columns.values()
        ]
        said = shape.removeprefix("exchange, ")
        assert f"| {said} | {' | '.join(row)} |" in text_of("sequence-parallel.md")
