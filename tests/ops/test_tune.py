"""Tuning: candidates, winners and the table they are written to; no test looks at a time."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from disca_rt.attention.backends import read_orders
from disca_rt.cli import main
from disca_rt.commands.tune import Section, _shapes, _told, _tune, write_winners
from disca_rt.kernels import launch
from disca_rt.kernels.launch import launch_config, launch_variant, trying
from disca_rt.kernels.launch_table import (
    ELSEWHERE,
    PACKAGED,
    LaunchConfig,
    forget_table,
    read_ops,
    table_path,
)
from disca_rt.kernels.op_table import SPAN, TUNED, calls
from disca_rt.kernels.tune import Timing, candidates, measure, winners
from disca_rt.kernels.workload import REAL, SMALL, Shapes
from refusal import refusal

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty launch table of the test's own, named in the environment."""
    path = tmp_path / "table.json"
    path.write_text("{}")
    monkeypatch.setenv(ELSEWHERE, str(path))
    forget_table()
    yield path
    forget_table()


def test_a_launch_is_the_table_s_or_the_default(table: Path) -> None:
    ops = {
        "gelu_tanh": {"1024": [8, 2]},
        "layer_norm": {"64": [1, 4, 8]},
        "linear_gelu": {"8": "epilogue"},
    }
    table.write_text(json.dumps({"cpu": {"ops": ops, "others": 1}}))
    assert launch_config("gelu_tanh", 1024, CPU) == LaunchConfig(8, 2)
    assert launch_config("gelu_tanh", 64, CPU) == launch.default_config(64)
    assert launch_config("layer_norm", 64, CPU) == LaunchConfig(1, 4, 8)
    assert launch_config("layer_norm", 32, CPU, LaunchConfig(3, 1)) == LaunchConfig(3, 1)
    assert launch_variant("linear_gelu", 8, CPU, "in place") == "epilogue"
    assert launch_variant("linear_gelu", 9, CPU, "in place") == "in place"
    with trying({"gelu_tanh": LaunchConfig(1, 1)}):
        assert launch_config("gelu_tanh", 1024, CPU) == LaunchConfig(1, 1)
        with trying({"gelu_tanh": None, "linear_gelu": None}):
            assert launch_config("gelu_tanh", 1024, CPU) == launch.default_config(1024)
            assert launch_variant("linear_gelu", 8, CPU, "in place") == "in place"
        assert launch_variant("linear_gelu", 8, CPU, "in place") == "epilogue"
    assert launch_config("gelu_tanh", 1024, CPU) == LaunchConfig(8, 2)


def test_a_measured_launch_goes_before_a_modelled_one(table: Path) -> None:
    modelled = {"layer_norm": {"64": [1, 4, 8], "128": [1, 4, 4]}}
    measured = {"layer_norm": {"64": [2, 4, 1]}}
    table.write_text(json.dumps({"cpu": {"modelled": modelled, "ops": measured}}))
    assert launch_config("layer_norm", 64, CPU) == LaunchConfig(2, 4)
    assert launch_config("layer_norm", 128, CPU) == LaunchConfig(1, 4, 4)
    table.write_text(json.dumps({"cpu": {"modelled": {"layer_norm": {"64": [7, 1]}}}}))
    forget_table()
    with pytest.raises(ValueError, match="cpu, layer_norm, 64: must be"):
        launch_config("layer_norm", 64, CPU)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"table\.json is not JSON \(.*\); make it {} and run tune anew"),
        ("\xff", r"table\.json is not JSON \(.*\); make it {} and run tune anew"),
        ("[]", r"table\.json: the whole: must be an object, got \[\]"),
        ('{"cpu": 1}', r"table\.json: cpu: must be an object, got 1; remove it"),
        ('{"cpu": {"ops": 1}}', "cpu, ops: must be an object, got 1; remove it"),
        ('{"cpu": {"gelu_tanh": {"8": [1, 2]}}}', "gelu_tanh must be within 'ops', the file is of"),
    ],
)
def test_a_file_is_checked_when_it_is_read(table: Path, text: str, message: str) -> None:
    table.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message) as caught:
        launch_config("gelu_tanh", 1024, CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("op", "by_width", "message"),
    [
        ("head", [16, 4], r"cpu, head: must be an object, got \[16, 4\]"),
        (
            "gelu",
            {},
            r"cpu: op must be one of \['block_sparse_attention', .*, got 'gelu'; remove it",
        ),
        ("joint_linear", {}, "got 'joint_linear'; remove it"),
        ("head", {"8": [7, 2]}, r"cpu, head, 8: must be \[rows, num_w.*got \[7, 2\]"),
        ("head", {"8": [16, 64]}, r"at most 32 warps, got \[16, 64\]; remove it"),
        ("head", {"8": [16, 0]}, r"got \[16, 0\]"),
        ("head", {"8": [16, True]}, r"got \[16, True\]"),
        ("head", {"8": [16]}, r"got \[16\]"),
        ("head", {"8": [16, 4, 3]}, r"or \[rows, num_warps, turns\].*got \[16, 4, 3\]"),
        ("head", {"8": [16, 4, 2]}, r"head takes no turns, got \[16, 4, 2\]; make it \[16, 4\]"),
        ("head", {"8": "in place"}, "got 'in place'"),
        ("linear_gelu", {"8": "x"}, r"one of \['epilogue', 'in place'\], got 'x'"),
        ("linear_gelu", {"8": [1, 2]}, r"must be one of .*, got \[1, 2\]"),
    ],
)
def test_ops_are_checked_when_they_are_read(
    table: Path, op: str, by_width: object, message: str
) -> None:
    table.write_text(json.dumps({"cpu": {"ops": {op: by_width}}}))
    with pytest.raises(ValueError, match=message):
        launch_config("gelu_tanh", 1024, CPU)


def test_a_table_that_is_not_there_is_named(table: Path) -> None:
    table.unlink()
    with pytest.raises(ValueError, match=r"no launch table .*table\.json; write it with"):
        launch_config("gelu_tanh", 1024, CPU)


def test_the_package_s_table_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ELSEWHERE, raising=False)
    assert table_path() == PACKAGED
    assert isinstance(read_ops(), dict)
    assert isinstance(read_orders(), dict)


def test_every_op_has_candidates_and_the_default_is_among_them() -> None:
    made = calls(REAL["1.0 704x704x129"], lambda *shape, **_: torch.empty(shape, device="meta"))
    for op, make_call in made.items():
        if op not in TUNED:
            continue
        choices = candidates(op, make_call().width)
        assert len(choices) >= 2
        assert len(set(choices)) == len(choices)
    for op in ("layer_norm_modulate", "gated_sum"):
        assert launch.default_of(op, 3072) in candidates(op, 3072)
    assert {turns for *_, turns in candidates("layer_norm_modulate", 3072)} == {1, 4, 8, 16}
    assert {turns for *_, turns in candidates("gated_sum", 3072)} == {1}
    assert all(rows >= 16 for rows, *_ in candidates("head", 3072))
    assert candidates("linear_gelu", 12288) == ["epilogue", "in place"]
    for rows, warps, _ in candidates("layer_norm_modulate", 3072):
        assert 8 <= rows * 4096 // (32 * warps) <= 32


def test_the_winner_is_fastest_over_all_shapes_of_its_width() -> None:
    slow, even, fast = LaunchConfig(1, 1), LaunchConfig(1, 2), LaunchConfig(2, 1)
    measured = [
        Timing("op", "long", 64, {None: 9.0, slow: 8.0, even: 3.0, fast: 2.0}),
        Timing("op", "short", 64, {None: 9.0, slow: 0.1, even: 0.2}),  # `fast` did not fit
        Timing("op", "wide", 128, {None: 1.0, slow: 2.0, fast: 3.0}),
        Timing("gelu", "long", 64, {None: 1.0, "epilogue": 1.0, "in place": 2.0}),
    ]
    assert winners(measured) == {"op": {"64": even, "128": slow}, "gelu": {"64": "epilogue"}}


def test_every_candidate_of_every_op_is_measured() -> None:
    clocked: list[object] = []

    def clock(call) -> float:
        clocked.append(call)
        return float(len(clocked))

    measured = list(measure([SMALL], torch.empty, clock))
    assert {each.op for each in measured} == set(TUNED)
    assert all(len(each.seconds) == 1 + len(candidates(each.op, each.width)) for each in measured)
    assert len(clocked) == sum(len(each.seconds) for each in measured)


def test_gelu_after_a_product_is_measured_as_it_will_be_launched() -> None:
    launched = set()

    def clock(call) -> float:
        config = launch_config("gelu_tanh", SPAN, CPU)
        if launch_variant("linear_gelu", 4 * SMALL.hidden, CPU, "") == "in place":
            launched.add(config)
        return -float(config.rows)

    winner = max(candidates("gelu_tanh", SPAN))
    list(measure([SMALL], torch.empty, clock))
    assert {config.rows for config in launched} == {winner.rows}


def test_a_second_tuning_has_the_same_default_as_the_first(table: Path) -> None:
    """The default is not what the first one wrote into the table."""

    def defaults() -> dict[str, float]:
        def clock(call) -> float:
            config = launch_config("layer_norm", SMALL.hidden, CPU)
            return 100.0 * config.rows + config.num_warps

        return {each.op: each.seconds[None] for each in measure([SMALL], torch.empty, clock)}

    first = defaults()
    tuned = {"layer_norm": {str(SMALL.hidden): [64, 16]}}
    table.write_text(json.dumps({"cpu": {"ops": tuned}}))
    forget_table()
    assert launch_config("layer_norm", SMALL.hidden, CPU) == LaunchConfig(64, 16)
    assert defaults() == first


def test_winners_replace_their_entries_and_no_others(tmp_path: Path) -> None:
    out = tmp_path / "new" / "table.json"
    write_winners(out, "one", {"ops": {"head": {"64": [16, 2], "128": [32, 2]}}})
    write_winners(out, "two", {"ops": {"head": {"64": [16, 4]}}, "attention": {"64": ["sdpa"]}})
    write_winners(
        out, "one", {"ops": {"head": {"64": [64, 2]}, "linear_gelu": {"128": "epilogue"}}}
    )
    head = {"64": [64, 2], "128": [32, 2]}
    assert json.loads(out.read_text()) == {
        "one": {"ops": {"head": head, "linear_gelu": {"128": "epilogue"}}},
        "two": {"ops": {"head": {"64": [16, 4]}}, "attention": {"64": ["sdpa"]}},
    }


class Interrupted(BaseException):
    """An end of a measurement from outside, such as Ctrl-C."""


HEAD = Timing("head", "long", 64, {None: 2.0, LaunchConfig(16, 2): 1.0})
HEAD_TABLE = {"gpu": {"ops": {"head": {"64": [16, 2, 1]}}}}


def measured_until(error: BaseException) -> Iterator[Timing]:
    yield HEAD
    raise error


def section(measure: Callable[..., Iterator[Timing]], *shapes: Shapes) -> Section:
    return Section("ops", shapes, measure, winners, samples=1)


def test_an_interruption_loses_no_measurement(tmp_path: Path) -> None:
    out, ops = tmp_path / "table.json", section(measured_until)
    with pytest.raises(Interrupted):
        _tune(((ops, each) for each in measured_until(Interrupted())), out, "gpu")
    assert json.loads(out.read_text()) == HEAD_TABLE


def test_a_shape_that_does_not_fit_is_told_and_left_out(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure_shape(shapes, make, clock) -> Iterator[Timing]:
        return measured_until(torch.OutOfMemoryError()) if shapes == [SMALL] else iter([])

    ops = section(measure_shape, SMALL, REAL["1.0 704x704x129"])
    _tune(((ops, each) for each in _told(ops, CPU, lambda call: 1.0)), table, "gpu")
    with pytest.raises(ValueError, match="nothing was measured"):
        _tune([], table, "gpu")
    assert "small: out of memory, what is left of it is not measured" in capsys.readouterr().out
    assert json.loads(table.read_text()) == HEAD_TABLE


def test_a_table_elsewhere_is_told_how_to_use(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, one = table.with_name("other.json"), [(section(measure), HEAD)]
    _tune(one, table, "gpu")
    assert capsys.readouterr().out == f"wrote {table}\n"
    _tune(one, other, "gpu")
    assert f"to launch by it: export {ELSEWHERE}={other}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "cpu"], "--device must be a GPU such as cuda, got cpu; --dry-run tries"),
        (["--out", "{folder}/t.txt"], "--out must end in .json, got"),
        (["--out", "{folder}/a.json/t.json"], "--out cannot be written"),
        (["--out", "{folder}/a.json"], "a.json: cpu: op must be one of"),
        (["--out", "{folder}/b.json"], "b.json: cpu, attention, 128: must be some of ['sdpa'"),
        (["--only", "8x8"], "--only must be part of one of ['1.0 704x704x129', "),
        ([], "table.json is not JSON"),
    ],
)
def test_what_would_fail_is_refused_before_anything_is_measured(
    table: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    table.write_text("{")
    table.with_name("a.json").write_text('{"cpu": {"ops": {"gelu": {}}}}')
    table.with_name("b.json").write_text('{"cpu": {"attention": {"128": ["fa9"]}}}')
    with (
        patch("torch.cuda.is_available", lambda: True),
        patch("torch.cuda.device_count", lambda: 1),
        patch("disca_rt.commands.tune._told", side_effect=AssertionError("measured")),
    ):
        given = [flag.format(folder=table.parent) for flag in flags]
        assert message in refusal(["tune", *given], capsys)


def test_the_gate_compiles_the_table_s_launches_in_every_dtype() -> None:
    code = (
        "from bench.sass.launches import LaunchConfig, _measured\n"
        "gelu = {'gelu_tanh': {'1024': LaunchConfig(4, 2)}, 'linear_gelu': {'12288': 'epilogue'}}\n"
        "for each in _measured(gelu):\n"
        "    print(each.op, each.dtype, each.options['BLOCK_M'], each.options['num_warps'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    dtypes = "torch.bfloat16", "torch.float16", "torch.float32"
    assert done.stdout.splitlines() == len(REAL) * [f"gelu_tanh {dtype} 4 2" for dtype in dtypes]


def test_one_size_is_tuned_alone_and_as_one_of_eight_ranks() -> None:
    models, shares = _shapes("704x704x129")
    assert [each.name for each in models] == ["1.0 704x704x129"]
    assert [each.name for each in shares] == ["1.0 704x704x129", "1.0 704x704x129, 8 ranks"]
    everything, all_shares = _shapes(None)
    assert (len(everything), len(all_shares)) == (len(REAL), 2 * len(REAL))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_tuning_without_a_gpu_is_refused(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "tune measures on a GPU, and there is none; --dry-run" in refusal(["tune"], capsys)


FEWER_CANDIDATES = """
import sys
from disca_rt.cli import main
from disca_rt.commands import tune

told = tune._told

def fewer(*args):
    from disca_rt.kernels import tune as kernels  # not before the command chose the interpreter
    kernels.ROWS, kernels.WARPS = (1, 16, 128), (1, 16)
    yield from told(*args)

tune._told = fewer
sys.exit(main(["tune", "--dry-run"]))
"""


@pytest.mark.slow
def test_a_dry_run_interprets_everything_and_writes_nothing(table: Path) -> None:
    """Tries the fewest and the most rows: warps are nothing to the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FEWER_CANDIDATES],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if not line.startswith("no ")]
    assert [line.split()[0] for line in lines] == ["attention", "attention", *TUNED]
    assert table.read_text() == "{}"


@pytest.mark.gpu
def test_tuning_writes_a_table_that_is_used(table: Path) -> None:
    with (
        patch.dict(REAL, {"small": SMALL}, clear=True),
        patch("disca_rt.kernels.workload.REAL_SHARES", [SMALL]),
    ):
        assert main(["tune"]) == 0
    device = torch.device("cuda")
    written = json.loads(table.read_text())[launch.table_name(device)]
    assert set(written) == {"attention", "ops"}
    assert set(written["ops"]) == set(TUNED)
    assert (
        list(launch_config("layer_norm_modulate", SMALL.hidden, device))
        == (written["ops"]["layer_norm_modulate"][str(SMALL.hidden)])
    )
