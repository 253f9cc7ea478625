"""`disca-rt plan` as a user types it: what it says, what it draws, how it refuses."""

from pathlib import Path
from unittest.mock import patch

import pytest
from PIL import Image

from disca_rt.cli import main
from refusal import refusal

SMALL = ["plan", "--size", "256x256x17"]  # 1,280 image tokens


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_one_plan(capsys: pytest.CaptureFixture[str]) -> None:
    out = said(["plan"], capsys)
    for part in (
        "63888 image + 256 text tokens on 8 ranks",
        "8018: 7762 to 8018 image and 0 to 256 text",
        "11.41, the last 41% full",
        "172.4 MB",
        "single-stream block, rank 0",
        "linear2",
        "Computed, not measured",
    ):
        assert part in out, part
    assert "ring" not in out.replace("Ulysses x ring", "")


def test_a_ring_of_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    out = said([*SMALL, "--ranks", "4", "--ranks-per-node", "2", "--between-nodes", "9,5"], capsys)
    for part in ("2 x 2", "K, V in 1", "ring K1", "between nodes", "9 GB/s, 5 us between nodes"):
        assert part in out, part


def test_one_rank_exchanges_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    out = said([*SMALL, "--ranks", "1"], capsys)
    assert "100.0%" in out
    assert "in the node" not in out.replace("in a node", "")


def test_uneven_heads_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    out = said([*SMALL, "--model", "tiny", "--size", "64x64x5", "--ranks", "3"], capsys)
    for part in ("2 to 3", "2 heads x ", "3 heads x "):
        assert part in out, part


@pytest.mark.parametrize("model", ["hunyuan-video", "hunyuan-video-1.5", "tiny"])
def test_a_table_of_world_sizes(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(["plan", "--model", model, "--world-sizes", "2,4,8,16,64"], capsys)
    lines = out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["2", "4", "8", "16", "64"]
    assert len({line.count("|") for line in lines}) == 1
    assert "between nodes" in lines[5]


def test_rates_change_what_they_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SMALL, "--world-sizes", "4"]
    usual = said(arguments, capsys)
    for flag, value in (
        ("--gemm-tflops", "300"),
        ("--attention-tflops", "300"),
        ("--copy-gbs", "900"),
        ("--sms", "40"),
        ("--link", "pcie5"),
    ):
        assert said([*arguments, flag, value], capsys) != usual, flag


def test_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "timeline.png"
    out = said([*SMALL, "--ranks", "4", "--timeline", str(path)], capsys)
    assert f"wrote {path}" in out.replace("\n", "")
    with Image.open(path) as picture:
        assert picture.size[0] > 1000
        assert len(picture.convert("RGB").getcolors(maxcolors=1 << 24)) > 10
    assert [each.name for each in path.parent.iterdir()] == ["timeline.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranks", "0"], "--ranks must be from 1 to 256, got 0"),
        (["--ranks", "99999999"], "--ranks must be from 1 to 256"),
        (
            ["--size", "16x16x1", "--text-tokens", "1", "--ranks", "3"],
            "must be at most the 2 tokens, got 3",
        ),
        (
            ["--ranks", "37", "--ranks-per-node", "0"],
            "nearest legal are, with what a rank sends per block, 34 (ring steps 16, ",
        ),
        (["--ranks", "9", "--ranks-per-node", "8"], "that divides the 8 ranks of a node, got 9"),
        (["--ulysses-degree", "3"], "got 3; legal are, with what a rank sends per block, 1 (ring"),
        (
            ["--ulysses-degree", "16", "--ranks", "16"],
            "must divide the 16 ranks and the 8 of a node and be at most the 24 heads, got 16",
        ),
        (["--link", "nvlink"], "link must be one of ['ethernet', 'nvlink4', 'nvlink5', 'pcie5']"),
        (["--between-nodes", "fast"], "link must be one of"),
        (["--link", "0,1"], "got '0,1'"),
        (["--ranks-per-node", "-1"], "ranks_per_node must be at least 0, got -1"),
        (["--head-chunks", "0"], "--head-chunks must be at least 1, got 0"),
        (["--predictor-depth", "0"], "--predictor-depth must be at least 1"),
        (["--gemm-tflops", "0"], "--gemm-tflops must be from 1e-06 to 1e+09, got 0.0"),
        (["--copy-gbs", "nan"], "--copy-gbs must be from"),
        (["--sms", "0"], "--sms must be from 1 to"),
        (["--model", "wan"], "model must be one of"),
        (["--text-tokens", "0"], "--text-tokens must be at least 1"),
        (["--size", "700x704x129"], "width must be a multiple of 16, got 700"),
        (["--world-sizes", "2,x"], "must be numbers of ranks such as 2,4,8, got '2,x'"),
        (["--world-sizes", "2,0"], "--ranks must be from 1 to 256, got 0"),
        (["--world-sizes", "2", "--ranks", "2"], "not allowed with argument"),
        (["--world-sizes", "2", "--timeline", "t.png"], "--timeline draws one plan; give --ranks"),
        (["--timeline", "t.jpg"], "--timeline must end in .png"),
        (["--timeline", "/proc/disca/t.png"], "--timeline cannot be written: /proc/disca/t.png"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refusal(["plan", *arguments], capsys)
    assert list(tmp_path.iterdir()) == [], "nothing half-written"


def test_a_picture_without_matplotlib(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with patch("disca_rt.commands.plan.find_spec", return_value=None):
        told = refusal(["plan", "--timeline", tmp_path / "t.png"], capsys)
    assert "pip install 'disca_rt[plot]'" in told
