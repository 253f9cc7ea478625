"""docs/pipeline.md: its tables are those of the code, and its examples run."""

import re
from pathlib import Path

import pytest
import torch

from disca_rt.commands.folder import OPTIONS
from disca_rt.family import FAMILIES
from disca_rt.folders.variants import VARIANTS, Variant
from disca_rt.pipeline.match import MATCHES

PAGE = (Path(__file__).parents[2] / "docs" / "pipeline.md").read_text()


def row(title: str, name: str, variant: Variant) -> str:
    frames, height, width = variant.size
    scales = variant.embedded_scale, variant.classifier_free_scale
    said = ["–" if scale is None else f"{scale:g}" for scale in scales]
    cells = [title, f"`{name}`", str(variant.steps), f"{variant.shift:g}", *said]
    return f"| {' | '.join(cells)} | {width}x{height}x{frames} |"


def test_the_table_of_variants_is_the_code_s() -> None:
    rows = [
        row(FAMILIES[family].title, name, variant)
        for family, variants in VARIANTS.items()
        for name, variant in variants.items()
    ]
    assert re.findall(r"\| HunyuanVideo 1\.\d \| `.*", PAGE) == rows


def test_the_programs_that_can_be_matched_are_the_code_s() -> None:
    heading = next(line for line in PAGE.splitlines() if "disca (default)" in line)
    assert [cell.split()[0] for cell in heading.strip("| ").split(" | ")[-3:]] == list(MATCHES)


def test_flags_on_the_page_exist() -> None:
    from disca_rt.cli import build_parser

    known = build_parser()._subparsers._group_actions[0].choices
    flags = {flag for name in ("generate", "decode") for flag in known[name]._option_string_actions}
    theirs = {"--predictor-path", "--flow-reverse", "--use-cpu-offload", "--i2v-stability"}
    theirs |= {"--no-build-isolation"}  # pip's
    table = PAGE[PAGE.index("## The arguments of official") : PAGE.index("## A conditioning")]
    said = set(re.findall(r"--[a-z][a-z0-9-]*", PAGE.replace(table, "")))
    assert said - theirs <= flags
    ours = (line.rsplit("|", 2)[-2] for line in table.splitlines() if line.startswith("|"))
    named = {flag for cell in ours for flag in re.findall(r"--[a-z][a-z0-9-]*", cell)}
    assert named <= flags
    assert {f"--{name.replace('_', '-')}" for name in OPTIONS} <= flags


def test_the_example_in_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    import small_parts

    small_parts.pipeline_15().save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    example = example.replace('device="cuda", dtype=torch.bfloat16', 'device="cpu"')
    example = example.replace("seed=1", "seed=1, frames=5, height=32, width=48, schedule=steps")
    from disca_rt import preset

    exec(example, {"FOLDER": tmp_path / "model", "torch": torch, "steps": preset(2, 5.0)})
    assert (tmp_path / "cat.mp4").stat().st_size > 0
