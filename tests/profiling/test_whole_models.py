"""`disca-rt profile` of a whole model: loading, encoders and VAE are stages beside the steps."""

import json
import re
import warnings
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

pytest.importorskip("diffusers")

import small_parts
from disca_rt.cli import main
from disca_rt.instruments.stopwatch import Stopwatch
from disca_rt.pipeline.residency import Held
from disca_rt.profiling.marked import MarkedStopwatch
from disca_rt.profiling.ranges import Ranges

SMALL = ["a cat", "--size", "64x48x9", "--steps", "3"]
KINDS = ["loading", "prompts", "conditioning", "full", "decode"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    small_parts.pipeline_15().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def profiled(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Folder of a profile, and how often a part was loaded for it."""
    out, loads = tmp_path_factory.mktemp("profile"), []
    made = Held.__init__

    def watched(held: Held, load: object, is_kept: bool = False) -> None:
        made(held, lambda: loads.append(load()) or loads[-1], is_kept)

    with patch.object(Held, "__init__", watched), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(["profile", *SMALL, "--model", str(model), "--out", str(out)]) == 0
    return out, sum(part is not None for part in loads)


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "table.jsonl").read_text().splitlines()]


def test_every_stage_has_its_classes(profiled: tuple[Path, int]) -> None:
    lines = lines_of(profiled[0])
    assert list(dict.fromkeys(line["kind"] for line in lines)) == KINDS
    assert {line["kind"] for line in lines if line["level"] == "step"} == {"full"}
    for kind in KINDS:
        shares = {line["class"]: line["share"] for line in lines if line["kind"] == kind}
        assert sum(shares.values()) - shares["all"] == pytest.approx(1)
    named = {(line["kind"], line["class"]): line for line in lines}
    assert named["decode", "convolution"]["flops"] > 0
    assert named["decode", "attention"]["time_s"] > 0
    assert named["prompts", "GEMM"]["flops"] > 0
    assert named["full", "GEMM"]["steps_of_kind"] == 3


def test_each_part_is_loaded_once(profiled: tuple[Path, int]) -> None:
    folder, loads = profiled
    assert loads == 3
    loading = {line["steps_of_kind"] for line in lines_of(folder) if line["kind"] == "loading"}
    assert loading == {3}


def test_trace_and_page_have_the_stages_in_order(profiled: tuple[Path, int]) -> None:
    folder, _ = profiled
    trace = json.loads((folder / "trace.json").read_text())
    marks = [e for e in trace["traceEvents"] if e.get("cat") == "user_annotation"]
    spans = [e for e in marks if e["name"].startswith(("stage", "step"))]
    order = ["stage loading", "stage prompts", "stage loading", "stage conditioning"]
    order += ["step 0 full", "step 1 full", "step 2 full", "stage loading", "stage decode"]
    assert [span["name"] for span in spans] == order
    ends = [span["ts"] + span["dur"] for span in spans]
    starts = [span["ts"] for span in spans[1:]]
    assert all(end <= start for end, start in zip(ends, starts, strict=False))
    data = re.search(r'id="data">(.*?)</script>', (folder / "profile.html").read_text(), re.S)[1]
    page = json.loads(data)
    outermost = [page["names"][span[2]] for span in page["lanes"][0]["spans"]]
    assert outermost == [name.removeprefix("stage ") for name in order]
    text = (folder / "table.md").read_text()
    assert re.search(r"under the profiler .* s: loading .*%, prompts .*%, .*decode", text)


def test_a_saved_conditioning_needs_no_encoder(model: Path, tmp_path: Path) -> None:
    """Latents are sampled and decoded, and nothing else of the folder is read."""
    from safetensors.torch import save_file

    from disca_rt import Pipeline, Request, preset

    with Pipeline.load(model, dtype=torch.float32) as pipeline:
        size, schedule = (9, 48, 64), preset(2, 5.0)
        asked = Request(prompts=["a cat"], size=size, schedule=schedule, policy="full")
        given = pipeline.conditioned(asked)
    file, out = tmp_path / "conditioning.safetensors", tmp_path / "out"
    save_file(given.conditioning.tensors(), file)
    command = ["--conditioning", file, "--model", model, "--size", "64x48x9", "--steps", "2"]
    with patch("disca_rt.pipeline.load.ENCODERS", {}):
        assert main(["profile", *map(str, command), "--out", str(out)]) == 0
    assert list(dict.fromkeys(line["kind"] for line in lines_of(out))) == [
        kind for kind in KINDS if kind != "prompts"
    ]


def test_a_stage_within_a_stage_has_no_range_of_its_own() -> None:
    ranges = Ranges(torch.device("cpu"))
    names: list[str] = []
    ranges.push, ranges.pop = names.append, lambda: None
    stopwatch = MarkedStopwatch(ranges, torch.device("cpu"))
    for _ in stopwatch.timed("decode", [1, 2]):
        with stopwatch.stage("writing"):
            pass
    with stopwatch.stage("prompts"):
        pass
    assert names == ["stage decode", "stage prompts"]
    counts = {name: stage.count for name, stage in stopwatch.times().items()}
    assert counts == {"decode": 2, "writing": 2, "prompts": 1}


def test_the_making_of_pieces_is_timed_and_not_their_use(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    stopwatch = Stopwatch(torch.device("cpu"))
    for _ in stopwatch.timed("decode", range(3)):
        next(clock)  # use of a piece
    assert stopwatch.times()["decode"] == (3, 3)
