"""`disca-rt train`: what is run, what is refused in one line, what a dry run prints."""

import json
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint import FileSystemWriter

from disca_rt.cli import main
from disca_rt.commands.train import METHODS
from disca_rt.tiny.runtime import SHIPPED
from disca_rt.tiny.training_clips import TrainingClips, unconditional
from disca_rt.train import checkpoint, presets
from disca_rt.train.flow_matching import BaseStage, BaseStageConfig
from disca_rt.train.run_file import describe_run
from disca_rt.train.stage import Loss
from disca_rt.weights.load import load_dit
from refusal import refusal
from train.small import RUN, SMALL, randomised, saved


@pytest.fixture(autouse=True)
def small_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    def small_base(start: str | None = None) -> BaseStageConfig:
        return BaseStageConfig(RUN, SMALL, start)

    tables = {**presets.PRESETS, "base": {"tiny": small_base, "tiny-images": small_base}}
    monkeypatch.setattr(presets, "PRESETS", tables)


def test_a_run_writes_its_folder_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["train", "base", "--out", str(tmp_path), "--batch", "2", "--seed", "7"]
    assert main([*flags, "--steps", "2"]) == 0
    assert main([*flags, "--steps", "3"]) == 0
    assert f"wrote {tmp_path / 'dit.safetensors'}" in capsys.readouterr().out
    assert load_dit(tmp_path / "dit.safetensors").config == SMALL
    described = json.loads((tmp_path / "run.json").read_text())
    assert described["run"]["batch"] == 2
    assert described["run"]["steps"] == 3
    assert len((tmp_path / "loss.jsonl").read_text().splitlines()) == 3


def test_stages_follow_one_another(tmp_path: Path) -> None:
    base = saved(randomised(SMALL), tmp_path / "dit.safetensors")
    steps = ["--steps", "1", "--batch", "2"]
    stages = {
        "cfg": ("dit.safetensors", []),
        "meanflow": ("dit.safetensors", ["--restriction", "0.4", "--derivative", "jvp"]),
        "predictor": ("predictor.safetensors", ["--no-gan"]),
    }
    source = base
    for stage, (written, flags) in stages.items():
        out = tmp_path / stage
        command = ["train", stage, "--from", source, "--out", str(out), *steps, *flags]
        assert main(command) == 0
        source = str(out / written)
    run = json.loads((tmp_path / "predictor" / "run.json").read_text())
    assert run["adversarial"] is False
    assert json.loads((tmp_path / "meanflow" / "run.json").read_text())["restriction"] == 0.4


OUT = "--out", "x"
ADJUSTED = ["cache", *OUT, "--from", "y", "--method", "block-caching"]
CALIBRATION = SHIPPED / "calibrations/restricted-meanflow-20-steps.json"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["base"], "give the folder of the run with --out"),
        (["base", *OUT, "--preset", "huge"], "preset must be one of ['tiny', 'tiny-im"),
        (["cfg", *OUT], "stage cfg needs the weights it starts from; give them with --from"),
        (["base", *OUT, "--no-gan"], "--no-gan is nothing that stage base has"),
        (["base", *OUT, "--restriction", "0.2"], "--restriction is nothing that stage"),
        (["base", *OUT, "--batch", "0"], "batch must be at least 1, got 0"),
        (["base", *OUT, "--data", "nowhere"], "there is no folder nowhere"),
        (["base", *OUT, "--from", "nowhere"], "nowhere"),
        (["base", *OUT, "--device", "tpu"], "--device must be"),
        (["base", *OUT, "--decay-steps", "-5"], "decay_steps must be at least 0, got -5"),
        (["base", *OUT, "--checkpoint-every", "0"], "checkpoint_every must be at least 1"),
        (["base", *OUT, "--ranks", "4"], "--ranks is of a dry run; add --dry-run"),
        (["base", *OUT, "--text-tokens", "9"], "--text-tokens is of a dry run; add --dry"),
        (["meanflow", *OUT, "--from", "y", "--unconditional", "z"], "--unconditional is nothing"),
        (["predictor", *OUT, "--preset", "hunyuan-video", "--from", "y"], "preset hunyuan-video n"),
        (["cache", *OUT, "--from", "y"], "stage cache needs --method, one of l2c, harmonica, lazy"),
        (["cache", *OUT, "--method", "l2c"], "stage cache l2c needs the weights it starts from"),
        (["base", *OUT, "--method", "l2c"], "--method is nothing that stage base has"),
        (["cache", *OUT, "--method", "l2c", "--from", "y", "--rho", "1"], "--rho is nothing that"),
        (["cfg", *OUT, "--from", "y", "--sampling-steps", "9"], "--sampling-steps is nothing that"),
        (["cfg", *OUT, "--from", "y", "--calibration", "z"], "--calibration is nothing that stage"),
        (
            [*ADJUSTED, "--calibration", "nowhere"],
            "nowhere is not a file; make one: disca-rt",
        ),
        (
            [*ADJUSTED, "--calibration", str(CALIBRATION), "--shift", "3"],
            "of shift 5, not 3",
        ),
    ],
)
def test_refusals_are_one_line(
    flags: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refusal(["train", *flags], capsys)
    assert not (tmp_path / "x" / "checkpoints").exists()


def test_gates_are_trained_for_the_sampler_that_is_named(tmp_path: Path) -> None:
    dit = saved(randomised(SMALL), tmp_path / "dit.safetensors")
    out, sampler = tmp_path / "run", ["--sampling-steps", "3", "--shift", "2", "--guidance", "5"]
    flags = ["--method", "l2c", "--from", dit, "--out", str(out), "--l1", "0.5", "--steps", "1"]
    assert main(["train", "cache", *flags, *sampler]) == 0
    described = json.loads((out / "run.json").read_text())
    expected = {"sampling_steps": 3, "shift": 2.0, "guidance": 5.0, "l1": 0.5}
    assert {name: described[name] for name in expected} == expected
    assert described["stage"] == "L2CStageConfig"
    assert load_file(out / "gates.safetensors")["gates"].shape == (3, 5)


@pytest.mark.parametrize("method", METHODS)
def test_a_dry_run_of_a_cache_method(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--method", method, "--preset", "hunyuan-video", "--batch", "1"]
    assert main(["train", "cache", *flags, "--dry-run", "--ranks", "1"]) == 0
    assert "64,144 tokens per sample" in capsys.readouterr().out


def test_a_dry_run_of_the_embedded_models_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "cache", "--method", "l2c", "--dry-run"]) == 0
    assert "256 tokens per sample" in capsys.readouterr().out


def test_a_dry_run_of_the_13b_predictor_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["train", "predictor", "--preset", "hunyuan-video", "--dry-run", "--ranks", "8"]) == 0
    )
    printed = capsys.readouterr().out
    assert "64,144 tokens per sample" in printed
    for row in ("frozen weights", "optimizer", "activations", "total", "PFLOP"):
        assert row in printed


def test_every_preset_is_complete() -> None:
    for stage, table in presets.PRESETS.items():
        for name in table:
            config = presets.training_config(stage, name, "weights")
            described = describe_run(config, TrainingClips())
            assert "weights" in {described.get(key) for key in ("start", "teacher", "dit")}
            assert described["run"]["steps"] > described["run"]["decay_steps"] >= 0


def test_a_loss_that_is_not_finite_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nan = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr(BaseStage, "loss", lambda *_: Loss(nan * 1, {"loss": nan.detach()}))
    error = refusal(["train", "base", "--out", tmp_path, "--steps", "1"], capsys)
    assert "the loss is not finite at step 0" in error
    assert "on the sample at position 0, " in error, "no rate was used yet: it is the samples"
    assert "begin again with other samples" in error


@pytest.mark.parametrize("taken", ["", "run.json", "loss.jsonl", "loss.png", "dit.safetensors"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_run(
    taken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    if taken:
        (out / taken).mkdir(parents=True)
    else:
        out.write_text("a file")
    assert f"--out cannot be written: {out}" in refusal(
        ["train", "base", "--out", out, "--steps", "1"], capsys
    ).replace("--out is a folder", "--out cannot be written")


@pytest.mark.parametrize(
    ("steps", "left"), [(0, "there is no checkpoint yet"), (1, "the same command resumes from")]
)
def test_an_interruption_says_what_is_left(
    steps: int,
    left: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["train", "base", "--out", str(tmp_path), "--checkpoint-every", "1"]
    if steps:
        assert main([*flags, "--steps", str(steps)]) == 0

    monkeypatch.setattr(BaseStage, "loss", Mock(side_effect=KeyboardInterrupt))
    assert main([*flags, "--steps", "2"]) == 130
    assert f"interrupted; {left}" in capsys.readouterr().err.splitlines()[-1]


STOPPED_AT = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")


@pytest.mark.parametrize(
    ("error", "disk", "said"),
    [
        (OSError(28, "No space left on device"), None, "No space left on device"),
        (STOPPED_AT, OSError(28, "No space left on device"), "(rank 0: No space left on device)"),
        (STOPPED_AT, OSError(122, "Disk quota exceeded"), "(rank 0: Disk quota exceeded)"),
        (STOPPED_AT, None, "unexpected pos 704 vs 598)"),
        (KeyboardInterrupt(), None, "interrupted; the same command resumes from"),
    ],
)
def test_a_checkpoint_that_fails_says_why_and_leaves_the_one_before(
    error: BaseException,
    disk: OSError | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["train", "base", "--out", str(tmp_path), "--checkpoint-every", "1", "--batch", "1"]
    assert main([*flags, "--steps", "1"]) == 0
    with monkeypatch.context() as patched:
        patched.setattr(FileSystemWriter, "write_data", Mock(side_effect=error))
        patched.setattr(checkpoint.os, "fsync", Mock(side_effect=disk))
        told = refusal([*flags, "--steps", "2"], capsys)
    assert said in told
    if isinstance(error, Exception):
        assert "step_00000002.partial cannot be written" in told
        assert [each.name for each in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]
    assert main([*flags, "--steps", "2"]) == 0


def test_a_damaged_checkpoint_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["train", "base", "--out", str(tmp_path)]
    assert main([*flags, "--steps", "1"]) == 0
    [shard] = (tmp_path / "checkpoints").glob("*/*.distcp")
    shard.write_bytes(shard.read_bytes()[:1000])
    told = refusal([*flags, "--steps", "2"], capsys)
    assert "step_00000001 cannot be read; without it the run begins again (rank 0: " in told


def test_another_or_a_bad_unconditional_prompt_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = saved(randomised(SMALL), tmp_path / "dit.safetensors")
    flags = ["train", "cfg", "--from", teacher, "--out", tmp_path / "run", "--batch", "2"]
    assert main([*map(str, flags), "--steps", "1"]) == 0
    other, empty = tmp_path / "other.safetensors", unconditional().tensors()
    for changes, message in (
        ({"text_states": empty["text_states"] + 1}, "holds a run with unconditional"),
        ({"text_states": empty["text_states"] * float("nan")}, "the empty prompt: text_states has"),
        ({"text_mask": torch.ones(1, 2)}, "the empty prompt: text_mask must be"),
    ):
        save_file({name: each.contiguous() for name, each in (empty | changes).items()}, other)
        assert message in refusal([*flags, "--steps", "2", "--unconditional", other], capsys)


def test_data_of_several_sizes_is_told_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, data = tmp_path / "empty.safetensors", tmp_path / "data"
    data.mkdir()
    save_file({name: each.clone() for name, each in unconditional().tensors().items()}, empty)
    for frames in (1, 2):
        latents, conditioning = TrainingClips().at(frames)
        tensors = {"latents": latents[None, :, :frames], **conditioning.tensors()}
        own = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(own, data / f"{frames}.safetensors")
    flags = ["train", "base", "--out", tmp_path / "run", "--data", data, "--steps", "1"]
    flags += ["--unconditional", empty]
    told = refusal([*flags, "--batch", "2"], capsys)
    assert "of several sizes, [12, 1, 12, 16] in 1.safetensors, [12, 2, 12, 16] in 2." in told
    assert not (tmp_path / "run").exists()
    assert main([*map(str, flags), "--batch", "2", "--micro-batch", "1"]) == 0
