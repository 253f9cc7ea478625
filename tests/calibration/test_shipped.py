"""The calibrations of the embedded model: they fit its weights, and are found and used by it."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from disca_rt.cache.calibration import Uncalibrated
from disca_rt.cache.policies import POLICIES
from disca_rt.cache_judge.embedded import SUBJECTS, Embedded
from disca_rt.calibration.file import read_calibration
from disca_rt.cli import main
from disca_rt.commands.calibrate import PROMPT_SEED
from disca_rt.commands.evaluate_caches import _calibrated
from disca_rt.tiny.evaluate import calibration_of, resolved
from disca_rt.tiny.ladder import load_rung
from disca_rt.tiny.prompts import training_prompts
from disca_rt.tiny.runtime import SHIPPED, load_tiny
from disca_rt.tiny.workers import Workers

ROOT = Path(__file__).parents[2]
FOLDERS = ROOT / "ladder", SHIPPED
CPU = torch.device("cpu")

FILES = {
    "base": ROOT / "ladder/calibrations/base-50-steps.json",
    "distilled": SHIPPED / "calibrations/restricted-meanflow-20-steps.json",
}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No calibrations of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", FILES)
def test_a_subject_of_the_judge_has_its_calibration(name: str) -> None:
    rung, path = SUBJECTS[name], FILES[name]
    runtime = load_rung(rung, FOLDERS, CPU)
    found = calibration_of(runtime, rung.schedule, rung.guidance_scale)
    assert found.source == f"calibration {path}"
    assert found.subject.weights is not None
    named = {table for row in POLICIES.values() for table in row.tables}
    assert named <= found.tables.keys()
    for policy in ("block-caching", "ertacache", "omnicache:full_steps=5"):
        resolved(runtime, rung.schedule, policy, rung.guidance_scale)
    made = json.loads(path.read_text())["made"]
    texts = "\n".join(training_prompts(made["prompts"], PROMPT_SEED))  # not held out
    assert made["prompts_sha256"] == hashlib.sha256(texts.encode()).hexdigest()[:16]


def test_magcache_on_the_embedded_model_follows_its_own_table(capsys, tmp_path: Path) -> None:
    rung, path = SUBJECTS["distilled"], FILES["distilled"]
    rule = resolved(load_tiny(), rung.schedule, "magcache", rung.guidance_scale)[1].rule
    assert rule.mag_ratios == read_calibration(path).tables["magcache"]["mag_ratios"]
    out = ["--latents-out", str(tmp_path / "x.safetensors")]
    words = ["generate", "a red circle moving left", "--policy", "magcache"]
    assert main([*words, *out]) == 0
    assert f"policy magcache: mag_ratios of calibration {path}\n" in capsys.readouterr().out
    assert main([*words, "--calibration", "none", *out]) == 0
    assert "mag_ratios" not in capsys.readouterr().out


def test_the_judge_says_by_which_tables_it_judged(tmp_path: Path) -> None:
    digest = read_calibration(FILES["distilled"]).digest
    for calibration, told in ((None, digest), (str(FILES["distilled"]), digest), ("none", None)):
        with Workers(1, FOLDERS, CPU, calibration) as workers:
            subject = Embedded("distilled", FOLDERS, ["a red circle moving left"], workers)
            assert subject.facts["calibration"] == told
            if told is None:
                with pytest.raises(Uncalibrated, match="disca-rt calibrate"):
                    subject.check("block-caching")
            else:
                subject.check("block-caching")
                (clip,) = subject.clips("block-caching", 0)
                assert {plan.label for plan in clip.plans} == {"full", "predicted"}
    with (
        Workers(1, FOLDERS, CPU, str(FILES["distilled"])) as workers,
        pytest.raises(ValueError, match="does not fit this sample"),
    ):
        Embedded("base", FOLDERS, ["a red circle moving left"], workers)


def test_evaluate_takes_a_calibration(capsys, tmp_path: Path) -> None:
    """Without one, methods that need it are left out of the whole set, and refused by name."""
    subject = Embedded("distilled", FOLDERS, ["a red circle"], Workers(1, FOLDERS, CPU, "none"))
    assert [*_calibrated(subject, ["ertacache", "magcache"])] == ["magcache"]
    assert "ertacache is left out: policy ertacache needs" in capsys.readouterr().err.replace(
        "\n", ""
    )
    words = ["evaluate", "--caches", "--prompts", "2", "--subjects", "distilled", "--out"]
    judged = [*words, str(tmp_path), "--policy", "ertacache", "--workers", "1"]
    for given, reason in (("none", "a calibration has them"), ("absent.json", "is not a file")):
        assert main([*judged, "--calibration", given]) == 2
        assert reason in capsys.readouterr().err
    assert main(["evaluate", "--calibration", "none", "--out", str(tmp_path)]) == 2
    assert "--calibration goes with --caches" in capsys.readouterr().err
