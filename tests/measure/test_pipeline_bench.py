"""The benchmark of whole models runs, on small parts with one sample. No test looks at a time."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

import small_parts
from bench import whole_samples
from bench.pipeline import main
from bench.whole_models import MODELS
from bench.whole_samples import Job, Made, Ours, Theirs, comparisons
from disca_rt.measure.record import Record, read_records

ARGUMENTS = ["--samples", "1", "--size", "64x48x9", "--steps", "2", "--threads", "1"]
THEIRS = {"prompts", "full steps", "decode", "other"}
OURS = {"prompts", "conditioning", "full steps", "decode", "other"}
WHOLE = {"loading", "writing"}


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    makers = {
        "ten": lambda: small_parts.pipeline_10(guidance_embeds=True),
        "fifteen": small_parts.pipeline_15,
    }
    root = tmp_path_factory.mktemp("models")
    for name, make in makers.items():
        make().save_pretrained(root / name)
    return [root / name for name in makers]


def test_lines_have_every_stage_and_the_ratio(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "lines.jsonl"
    main([*ARGUMENTS, "--model", *map(str, folders), "--out", str(out)])
    records = read_records(out)
    assert len(records) == 8
    for record in records:
        is_ours, is_whole = record.contender == "ours", "mp4" in record.benchmark
        expected = (OURS if is_ours else THEIRS) | (WHOLE if is_whole else set())
        assert set(record.stages) == expected
        assert sum(map(sum, record.stages.values())) == pytest.approx(record.seconds[0], rel=0.05)
        assert record.baseline == "diffusers"
        assert record.goal == (0.9 if is_ours else None)
        assert record.relative_difference < whole_samples.TOLERANCE
    assert {_passes(record) for record in records} == {("ten", 1), ("fifteen", 2)}
    assert "| fifteen, folder to mp4, ours | median |" in capsys.readouterr().out


def _passes(record: Record) -> tuple[str, int]:
    return record.shape["model"], record.shape["passes"]


def test_a_folder_of_any_layout_is_measured_alone(folders: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "lines.jsonl"
    main([*ARGUMENTS, "--model", str(folders[0]), "--against", "nothing", "--out", str(out)])
    records = read_records(out)
    assert [record.contender for record in records] == ["ours", "ours"]
    assert all(record.goal is None for record in records)


def test_another_computation_is_not_timed(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Theirs, "resident", lambda theirs: Made(torch.zeros(1, 3, 9, 48, 64), {}))
    job = Job("ten", folders[0], "a cat", (9, 48, 64), 2)
    with pytest.raises(RuntimeError, match="nothing was timed"):
        next(comparisons(job, True, tmp_path / "video.mp4"))


def test_a_sample_of_ours_is_a_video_file(folders: list[Path], tmp_path: Path) -> None:
    job = Job("ten", folders[0], "a cat", (9, 48, 64), 2)
    ours, video = Ours(job), tmp_path / "video.mp4"
    ours.whole(video)
    assert video.stat().st_size > 1000
    frames = ours.resident().video
    assert frames.shape == (1, 3, 9, 48, 64)
    other = Ours(replace(job, seed=1)).resident().video
    assert (frames - other).abs().max() > 0.05


@pytest.mark.parametrize("name", MODELS)
def test_the_medium_models_are_whole(name: str) -> None:
    pipeline = MODELS[name]()
    assert pipeline.transformer.config.attention_head_dim == 64
    parts = "transformer", "text_encoder", "text_encoder_2", "vae"
    assert all(sum(p.numel() for p in getattr(pipeline, part).parameters()) > 1e5 for part in parts)
