"""Methods in words: what `disca-rt caches` and the page of methods say."""

import re
from pathlib import Path

import pytest

from cache_draws import CONFIG, OPS
from disca_rt.cache.described import (
    brief,
    marks,
    methods_page,
    options_in_words,
    options_of,
    preset_text,
)
from disca_rt.cache.method import Parts, sketched
from disca_rt.cache.plan import Setting
from disca_rt.cache.policies import FAMILIES, POLICIES, build_policy, read_policy
from disca_rt.cache.stand_ins.reuse import Reuse
from disca_rt.cli import main
from disca_rt.schedule import shifted

PARTS = Parts(CONFIG, OPS, sketched(CONFIG).predictor)


def test_every_method_says_what_it_is() -> None:
    page = methods_page()
    for name, row in POLICIES.items():
        assert row.about.endswith("."), name
        assert f"- **`{name}`**" in page
    assert sum(map(len, FAMILIES.values())) == len(POLICIES), "a name stands in one family"


def test_told_defaults_are_what_an_option_takes() -> None:
    """A default that is told, written down, is the policy without it."""
    for name, row in POLICIES.items():
        if row.follows_list:
            continue
        try:
            plain = build_policy(name, PARTS)
        except ValueError:  # it needs something that has no default
            continue
        for option in options_of(row):
            if option.default is not None and option.name in row.slot_types:
                assert build_policy(f"{name}:{option}", PARTS) == plain, f"{name}:{option}"


def test_presets_are_the_options_that_are_told() -> None:
    for name, row in POLICIES.items():
        for preset, options in row.presets.items():
            told = read_policy(f"{name}:{preset_text(options)}")
            assert read_policy(f"{name}:{preset}") == told


def test_the_command_lists_methods_and_tells_one(capsys: pytest.CaptureFixture) -> None:
    assert main(["caches"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in POLICIES)
    assert max(map(len, listed.splitlines())) <= 90
    assert main(["caches", "hermite"]) == 0
    told = capsys.readouterr().out
    assert "contraction: a number (default 0.5)" in told
    assert "state: one of device, fp8, host, fp8-host (default device)" in told
    assert main(["caches", "hermit"]) == 2
    assert "got 'hermit'; near it: hermite" in capsys.readouterr().err
    assert main(["caches", "fora"]) == 0
    assert "preset fora:disca-n3 (for 50 steps): step_list=0,1,2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "letters"),
    [
        ("reuse", ""),
        ("disca", ""),
        ("ertacache", "Cr"),
        ("block-caching", "Cfr"),
        ("omnicache", "cr"),
        ("teacache", "c"),
        ("fastcache", "c"),
        ("ditfastattn", "c"),
        ("l2c", "f"),
        ("blockdance-ada", "fr"),
        ("mixcache", "c2r"),
        ("t-gate", "2"),
        ("tokencache", "r"),
    ],
)
def test_marks_say_what_a_method_needs(name: str, letters: str) -> None:
    row = POLICIES[name]
    assert marks(row) == letters
    assert brief(name, row).split() == [name, *letters.split(), *row.brief.split()]
    assert row.brief


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("l2c", "gates: the path of a file (required)"),
        ("blockdance-ada", "net: the path of a file"),
        ("blockdance-ada", "either rho and reuse, or net=FILE"),
        ("toca", "fresh_rows: the path of a file, or none (default none)"),
        ("ditfastattn", "plan: the path of a file (where left out, of a calibration that has it)"),
        ("ditfastattn", "either plan=FILE, or (interval)"),
        (
            "hyca",
            "solvers: words, commas between them (default taylor-1; where left out, of a "
            "calibration that has it)",
        ),
        (
            "fastcache",
            "maps: the path of a file, or none (default none; where left out, of a "
            "calibration that has it)",
        ),
    ],
)
def test_options_say_whether_they_are_files_and_who_gives_them(name: str, line: str) -> None:
    assert line in options_in_words(POLICIES[name])


DOCS = Path(__file__).parents[2]


def test_the_page_of_methods_is_current() -> None:
    page = (DOCS / "docs" / "caches.md").read_text()
    assert page.endswith("## The methods\n\n" + methods_page()), (
        "write methods_page() into it again"
    )


def test_the_example_of_a_method_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / "CONTRIBUTING.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.setitem(POLICIES, "alternate", POLICIES["reuse"])  # removed afterwards
    exec(example, {})
    policy = build_policy("alternate:every=3", PARTS)
    plans = policy.known_plans(Setting(tuple(shifted(7, 3.0)), 1, 1))
    assert [index for index, plan in enumerate(plans) if plan.label == "full"] == [0, 3, 6]
    assert policy.slots[0].stand_in == Reuse("delta")
