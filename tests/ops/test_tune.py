"""Tuning: candidates, winners and the table they are written to; no test looks at a time."""

import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from disca_rt.cli import main
from disca_rt.kernels import launch
from disca_rt.kernels.launch import LaunchConfig, launch_config, measured_choice, trying
from disca_rt.kernels.tune import GEMMS, Measured, candidates, measure, winners
from disca_rt.kernels.workload import REAL, SMALL, calls

CPU = torch.device("cpu")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty launch table of the test's own."""
    path = tmp_path / "table.json"
    path.write_text("{}")
    monkeypatch.setattr(launch, "TABLE", path)
    launch.forget_table()
    yield path
    launch.forget_table()


def test_a_launch_is_the_table_s_or_the_default(table: Path) -> None:
    table.write_text(
        json.dumps({"cpu": {"gelu_tanh": {"1024": [7, 2]}, "linear_gelu": {"8": "x"}}})
    )
    assert launch_config("gelu_tanh", 1024, CPU) == LaunchConfig(7, 2)
    assert launch_config("gelu_tanh", 64, CPU) == launch.default_config(64)
    assert launch_config("layer_norm", 64, CPU, LaunchConfig(3, 1)) == (3, 1)
    assert measured_choice("linear_gelu", 8, CPU) == "x"
    assert measured_choice("linear_gelu", 9, CPU) is None
    with trying("gelu_tanh", LaunchConfig(1, 1)):
        assert launch_config("gelu_tanh", 1024, CPU) == (1, 1)
    assert launch_config("gelu_tanh", 1024, CPU) == (7, 2)


def test_every_op_has_candidates_and_the_default_is_among_them() -> None:
    made = calls(REAL["1.0 704x704x129"], lambda *shape, **_: torch.empty(shape, device="meta"))
    for op, make_call in made.items():
        if op in GEMMS:
            continue
        choices = candidates(op, make_call().width)
        assert len(choices) >= 2
        assert len(set(choices)) == len(choices)
    assert launch.default_config(3072) in candidates("layer_norm_modulate", 3072)
    assert all(rows >= 16 for rows, _ in candidates("head", 3072))
    assert candidates("linear_gelu", 12288) == ["epilogue", "in place"]


def test_the_winner_is_fastest_over_all_shapes_of_its_width() -> None:
    slow, even, fast = LaunchConfig(1, 1), LaunchConfig(1, 2), LaunchConfig(2, 1)
    measured = [
        Measured("op", "long", 64, {None: 9.0, slow: 8.0, even: 3.0, fast: 2.0}),
        Measured("op", "short", 64, {None: 9.0, slow: 0.1, even: 0.2}),  # `fast` did not fit
        Measured("op", "wide", 128, {None: 1.0, slow: 2.0, fast: 3.0}),
        Measured("gelu", "long", 64, {None: 1.0, "epilogue": 1.0, "in place": 2.0}),
    ]
    assert winners(measured) == {
        "op": {"64": [1, 2], "128": [1, 1]},
        "gelu": {"64": "epilogue"},
    }


def test_every_candidate_of_every_op_is_measured() -> None:
    clocked: list[object] = []

    def clock(call) -> float:
        clocked.append(call)
        return float(len(clocked))

    measured = list(measure([SMALL], torch.empty, clock))
    assert {each.op for each in measured} == set(calls(SMALL, torch.empty)) - set(GEMMS)
    assert all(len(each.seconds) == 1 + len(candidates(each.op, each.width)) for each in measured)
    assert len(clocked) == sum(len(each.seconds) for each in measured)


def test_gelu_after_a_product_is_measured_as_it_will_be_launched() -> None:
    launched = set()

    def clock(call) -> float:
        config = launch_config("gelu_tanh", launch.SPAN, CPU)
        if measured_choice("linear_gelu", 4 * SMALL.hidden, CPU) == "in place":
            launched.add(config)
        return -float(config.rows)

    winner = max(candidates("gelu_tanh", launch.SPAN))
    list(measure([SMALL], torch.empty, clock))
    assert {config.rows for config in launched} == {winner.rows}


def test_the_command_writes_this_device_s_part(table: Path, tmp_path: Path) -> None:
    from disca_rt.commands.tune import _write

    out = tmp_path / "new" / "table.json"
    _write(out, "one", {"op": {"64": [1, 2]}})
    _write(out, "two", {"op": {"64": [2, 2]}})
    _write(out, "one", {"op": {"128": "epilogue"}})
    assert json.loads(out.read_text()) == {
        "one": {"op": {"128": "epilogue"}},
        "two": {"op": {"64": [2, 2]}},
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_tuning_without_a_gpu_is_refused(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune"]) == 2
    assert "tune measures on a GPU, and there is none; --dry-run" in capsys.readouterr().err


@pytest.mark.slow
def test_a_dry_run_tries_everything_and_writes_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "disca_rt", "tune", "--dry-run"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    tuned = [op for op in calls(SMALL, torch.empty) if op not in GEMMS]
    assert [line.split()[0] for line in lines] == tuned


@pytest.mark.gpu
def test_tuning_writes_a_table_that_is_used(table: Path) -> None:
    with (
        patch.dict(REAL, {"small": SMALL}, clear=True),
        patch("disca_rt.kernels.workload.shard", lambda shapes, ranks: shapes),
    ):
        assert main(["tune"]) == 0
    device = torch.device("cuda")
    written = json.loads(table.read_text())[launch.device_name(device)]
    assert set(written) == set(calls(SMALL, torch.empty)) - set(GEMMS)
    assert (
        list(launch_config("layer_norm_modulate", SMALL.hidden, device))
        == (written["layer_norm_modulate"][str(SMALL.hidden)])
    )
