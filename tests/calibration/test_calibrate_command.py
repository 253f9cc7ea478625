"""`disca-rt calibrate`, and the commands that find what it wrote."""

from pathlib import Path

import pytest

from disca_rt.cache.method import Parts
from disca_rt.cache.policies import build_policy
from disca_rt.calibration import record as recording
from disca_rt.calibration.file import read_calibration
from disca_rt.cli import main
from disca_rt.tiny.prompts import is_held_out, parse, training_prompts

SMALL = ["--steps", "4", "--size", "16x16x2"]
PROMPT = "a red circle moving left"
LOOSE = "ertacache:threshold=10"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def calibrate(*words: str) -> int:
    return main(["calibrate", *SMALL, "--prompts", "1", *words])


def test_a_calibration_is_found_by_what_it_is_of(capsys, tmp_path: Path) -> None:
    assert calibrate() == 0
    told = capsys.readouterr().out
    assert "1 prompts, 1 recording runs and 2 of trials each: 3 samples" in told
    (path,) = (tmp_path / "cache/disca-rt/calibrations").iterdir()
    assert str(path) in told
    found = read_calibration(path)
    policy = build_policy(LOOSE, Parts(found.subject.model, calibration=found))
    steps = policy.rule.listed.step_list
    out = ["--latents-out", str(tmp_path / "x.safetensors")]
    assert main(["generate", PROMPT, *SMALL, "--policy", LOOSE, *out]) == 0
    assert f"policy {LOOSE}: errors, scales of calibration {path}\n" in capsys.readouterr().out
    tiny = ["--model", "tiny", "--policy", LOOSE, *SMALL, "--shift", "5"]
    assert main(["flops", *tiny]) == 0
    assert f"{len(steps)} x 1" in capsys.readouterr().out
    assert main(["generate", PROMPT, *SMALL, "--policy", LOOSE, "--calibration", "none", *out])
    assert "disca-rt calibrate" in capsys.readouterr().err
    more = ["--steps", "5", "--size", "16x16x2"]
    assert main(["generate", PROMPT, *more, "--policy", LOOSE, *out]) == 2
    assert f"{path} is of steps 4, not 5" in capsys.readouterr().err
    for words in (["magcache"], ["magcache:table=720p"]):
        assert main(["generate", PROMPT, *more, "--policy", *words, *out]) == 0
        told = capsys.readouterr().out
        said = f"policy magcache goes without mag_ratios: calibration {path} is of steps 4, not 5"
        assert (said in told) == (words == ["magcache"])


def test_a_named_calibration_is_used_or_refused(capsys, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    assert calibrate("--out", str(path)) == 0
    assert [each.name for each in tmp_path.iterdir()] == ["c.json"], "the recording is gone"
    named = ["--calibration", str(path), "--latents-out", str(tmp_path / "x.safetensors")]
    assert main(["generate", PROMPT, *SMALL, "--policy", "ertacache", *named]) == 0
    capsys.readouterr()
    for words, reason in (
        ([*SMALL, "--policy", "ertacache", "--shift", "7"], "shift 5, not 7"),
        ([*SMALL, "--policy", LOOSE, "--guidance-scale", "2"], "scales 4xnone, not 2xnone"),
        (
            ["--steps", "4", "--policy", "ertacache", "--size", "32x16x2"],
            "latents 2x8x8, not 2x8x16",
        ),
        ([*SMALL, "--policy", "full"], "policy full takes nothing from a calibration"),
        (
            [*SMALL, "--policy", "magcache:table=720p"],
            f"policy magcache:table=720p takes nothing from calibration {path}, which has block-",
        ),
        ([*SMALL, "--policy", "fastcache"], "policy fastcache takes nothing from calibration"),
    ):
        assert main(["generate", PROMPT, *words, *named]) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert error.count("\n") == 1


def test_a_calibration_is_the_same_each_time_and_after_an_interruption(
    capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    words = ["calibrate", *SMALL, "--prompts", "2"]
    assert main([*words, "--out", str(first)]) == 0
    count, real = [], recording.path_numbers

    def interrupted(*arguments: object) -> object:
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(recording, "path_numbers", interrupted)
    assert main([*words, "--out", str(second)]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert len([*(tmp_path / "b.recording").iterdir()]) == 3
    assert main([*words, "--out", str(second)]) == 0
    assert len(count) == 3, "the second prompt's sample alone was recorded again"
    assert second.read_text() == first.read_text()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--policy", "full"], "leave --policy and --step-list out"),
        (["--prompts", "absent.txt"], "--prompts must be a file, or a number, got 'absent.txt'"),
        ([PROMPT, "--prompts", "2"], "give one of a prompt, --prompts and --conditioning"),
        (["--prompts", "0"], "count must be at least 1"),
        (["--memory", "0"], "--memory must be above 0"),
        (["--out", "x.txt"], "--out must end in .json"),
        (["--steps", "1", "--size", "16x16x2", "--prompts", "1"], "sample of one step"),
        ([*SMALL, "--prompts", "1", "--memory", "0.00001"], "would help: more ranks, --memory"),
    ],
)
def test_refusals_are_one_line(capsys, tmp_path: Path, monkeypatch, words, reason) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["calibrate", *words]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1


def test_prompts_of_a_file_are_those_of_its_lines(capsys, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(f"{PROMPT}\n\n a blue cross moving up \n")
    out = ["--out", str(tmp_path / "c.json")]
    assert main(["calibrate", *SMALL, "--prompts", str(tmp_path / "p.txt"), *out]) == 0
    assert "2 prompts" in capsys.readouterr().out
    (tmp_path / "p.txt").write_text("\n")
    assert main(["calibrate", *SMALL, "--prompts", str(tmp_path / "p.txt"), *out]) == 2
    assert "has no prompts" in capsys.readouterr().err


def test_training_prompts_are_not_held_out() -> None:
    prompts = training_prompts(12, 3)
    assert prompts[:5] == training_prompts(5, 3)
    assert not any(is_held_out(parse(each)) for each in prompts)
