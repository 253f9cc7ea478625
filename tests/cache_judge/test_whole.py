"""The judge and the search on whole models and on a DiT alone: small ones, with random weights."""

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from disca_rt import Pipeline, preset
from disca_rt.cache_judge.similarity import eight_bits, likeness
from disca_rt.cli import main
from disca_rt.preset_file import read_preset
from disca_rt.weights.fingerprint import PIECE, PIECES, fingerprint
from golden_vectors import load_golden, relative_error
from refusal import refusal

pytest.importorskip("diffusers")
import disca_rt.folders.load as folders_load
import disca_rt.pipeline.load as pipeline_load
from pipeline.whole_folders import written

PROMPTS = ("a cat", "a dog runs")
SAMPLED = {"schedule": preset(4, 5.0), "frames": 5, "height": 48, "width": 64}
SMALL = ("--size", "64x48x5", "--steps", "4", "--shift", "5")
POLICIES = ("reuse:interval=2", "fbcache:threshold=0.3")
JUDGED = (*SMALL, "--policy", POLICIES[0], "--policy", POLICIES[1])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return written(tmp_path_factory.mktemp("folders"))


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No calibrations of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n\n".join(PROMPTS) + "\n")
    return path


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The policies of all samples that are begun, in order; but for the try of two steps."""
    begun: list[str] = []
    run = Pipeline.run

    def counted(self: Pipeline, request: Any, **given: Any) -> Any:
        if given.get("cancel") is None:
            begun.append(request.policy)
        return run(self, request, **given)

    monkeypatch.setattr(Pipeline, "run", counted)
    return begun


def lines(out: Path, kind: str, name: str = "caches.jsonl") -> list[dict[str, Any]]:
    read = [json.loads(line) for line in (out / name).read_text().splitlines()]
    return [line for line in read if line["kind"] == kind]


def judge(folder: Path, prompts: Path, out: Path, *words: object) -> int:
    given = ("evaluate", "--caches", "--model", folder, "--prompts", prompts, "--out", out)
    return main([str(word) for word in (*given, *(words or JUDGED))])


@pytest.mark.parametrize("name", ["1.0", "1.5"])
def test_samples_are_those_of_generate_and_their_likeness_is_measured(
    name: str, folders: dict[str, Path], prompts: Path, tmp_path: Path
) -> None:
    assert judge(folders[name], prompts, tmp_path / "out", "--seed", "7", *JUDGED) == 0
    clips = {(line["policy"], line["number"]): line for line in lines(tmp_path / "out", "clip")}
    assert [*clips] == [(policy, n) for policy in ("full", *POLICIES) for n in range(2)]
    pipeline = Pipeline.load(folders[name], dtype=torch.float32)
    for number, prompt in enumerate(PROMPTS):
        made = {
            policy: pipeline.generate(prompt, policy=policy, seed=7 + number, **SAMPLED)
            for policy in ("full", *POLICIES)
        }
        latents, videos = zip(
            *((one.latents[0], eight_bits(one.video[0])) for one in made.values()), strict=True
        )
        for policy, *ours in zip(made, latents, videos, strict=True):
            expected = likeness(*ours, latents[0], videos[0])._asdict()
            assert {key: clips[policy, number][key] for key in expected} == pytest.approx(expected)
    page = (tmp_path / "out" / "caches.md").read_text()
    by = " x 2" if name == "1.5" else ""
    assert f"## HunyuanVideo {name}, 64x48x5, 4 steps{by}" in page
    assert clips[POLICIES[0], 0]["steps"] == "fpfp"
    assert (tmp_path / "out" / "caches.png").is_file()


def test_each_part_is_loaded_once_and_each_clip_sampled_once(
    folders: dict[str, Path],
    prompts: Path,
    tmp_path: Path,
    runs: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads: Counter[str] = Counter()

    def counted(function: Callable[..., Any], name: str | None) -> Callable[..., Any]:
        def load(*given: Any) -> Any:
            loads[name or given[1]] += 1
            return function(*given)

        return load

    monkeypatch.setattr(folders_load, "load_part", counted(folders_load.load_part, None))
    monkeypatch.setattr(pipeline_load, "_load_dit", counted(pipeline_load._load_dit, "dit"))
    assert judge(folders["1.0"], prompts, tmp_path / "out") == 0
    assert {name: loads[name] for name in ("dit", "vae", "text_encoder", "text_encoder_2")} == (
        {"dit": 1, "vae": 1, "text_encoder": 1, "text_encoder_2": 1}
    )
    assert runs == [policy for policy in ("full", *POLICIES) for _ in PROMPTS], "none for the times"
    assert all(line["speedup"] > 0 for line in lines(tmp_path / "out", "cost"))


def test_an_interrupted_judging_goes_on(
    folders: dict[str, Path],
    prompts: Path,
    tmp_path: Path,
    runs: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert judge(folders["1.5"], prompts, whole) == 0
    runs.clear()
    counted = Pipeline.run

    def stopped(self: Pipeline, request: Any, **given: Any) -> Any:
        if len(runs) == 3:
            raise KeyboardInterrupt
        return counted(self, request, **given)

    monkeypatch.setattr(Pipeline, "run", stopped)
    assert judge(folders["1.5"], prompts, out) == 130
    assert f"what was measured is in {out}; the same command goes on" in capsys.readouterr().err
    monkeypatch.setattr(Pipeline, "run", counted)
    runs.clear()
    assert judge(folders["1.5"], prompts, out) == 0
    assert runs == ["reuse:interval=2", *["fbcache:threshold=0.3"] * 2, "full"], "one for the times"
    assert lines(out, "clip") == lines(whole, "clip")
    said = "was written with seed 0, now it is 1; give another --out"
    assert judge(folders["1.5"], prompts, out, "--seed", "1", *JUDGED) == 2
    assert said in capsys.readouterr().err
    prompts.write_text("\n".join(reversed(PROMPTS)))
    assert judge(folders["1.5"], prompts, out) == 2
    assert "was written with texts" in capsys.readouterr().err


def test_without_a_list_each_method_that_the_model_takes_is_judged(
    folders: dict[str, Path], prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts.write_text(PROMPTS[0])
    assert judge(folders["1.0"], prompts, tmp_path / "out", "--quick", *SMALL) == 0
    told = capsys.readouterr()
    judged = {line["policy"] for line in lines(tmp_path / "out", "clip")}
    assert judged >= {"full", "reuse:interval=2", "taylor:interval=2", "hermite:interval=2"}
    assert "disca is left out: policy 'disca' needs a predictor" in told.err
    assert f"1 samples of each policy: {len(judged)} samples, as much work as" in told.out
    assert "s a full step: about" in told.out
    assert "and the decodes" in told.out


def test_a_policy_that_cannot_fit_is_left_out_or_refused_before_anything_runs(
    folders: dict[str, Path],
    prompts: Path,
    tmp_path: Path,
    runs: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(need: Any, *given: Any) -> None:
        if need.policy.name == "taylor":
            raise MemoryError("needs about 2 GB of 1 GB; would fit: state=host")

    monkeypatch.setattr("disca_rt.commands.out_of_memory.refuse_hopeless", refuse)
    named = ("evaluate", "--caches", "--model", folders["1.0"], "--prompts", prompts, *JUDGED)
    words = (*named, "--policy", "taylor:interval=2", "--out", tmp_path / "named")
    said = refusal(words, capsys)
    assert said == "out of memory: needs about 2 GB of 1 GB; would fit: state=host"
    budget = ("search", "--budget", "3", *named[2:-4], "--policy", "taylor")
    assert "would fit: state=host" in refusal((*budget, "--out", tmp_path / "search"), capsys)
    assert runs == []
    short = ("--quick", "--only", "interval", *SMALL)
    assert judge(folders["1.0"], prompts, tmp_path / "short", *short) == 0
    assert "taylor:interval=2" not in runs


def test_latents_only_loads_no_vae(
    folders: dict[str, Path], prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = folders_load.load_part

    def without_vae(folder: Any, name: str, *given: Any) -> Any:
        assert name != "vae"
        return load(folder, name, *given)

    monkeypatch.setattr(folders_load, "load_part", without_vae)
    out = tmp_path / "out"
    assert judge(folders["1.0"], prompts, out, "--latents-only", *JUDGED) == 0
    assert {line["psnr"] for line in lines(out, "clip")} == {None}
    page = (out / "caches.md").read_text()
    assert "| policy | cost | speed-up | measured/that | state | L2 median |" in page


def test_a_vae_that_does_not_fit_beside_the_dit_names_the_way_out(
    folders: dict[str, Path],
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def decode(*given: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GB")

    monkeypatch.setattr(Pipeline, "decode_into", decode)
    assert judge(folders["1.0"], prompts, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "stage decode, beside the DiT: CUDA out of memory" in said
    assert "would help: --latents-only; what was measured is in" in said


def test_a_sample_that_is_not_finite_is_infinitely_far(
    folders: dict[str, Path],
    prompts: Path,
    tmp_path: Path,
    runs: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = Pipeline.run

    def broken(self: Pipeline, request: Any, **given: Any) -> Any:
        sample = counted(self, request, **given)
        if request.policy == POLICIES[1]:
            raise FloatingPointError("the result is not finite in float32")
        return sample

    monkeypatch.setattr(Pipeline, "run", broken)
    assert judge(folders["1.0"], prompts, tmp_path / "out") == 0
    far = [line for line in lines(tmp_path / "out", "clip") if line["policy"] == POLICIES[1]]
    assert [line["l2"] for line in far] == [math.inf] * 2
    assert all(len(line["steps"]) == 4 and 0 < line["psnr"] < 30 for line in far)
    assert f"| `{POLICIES[1]}` |" in (tmp_path / "out" / "caches.md").read_text()


def test_search_finds_a_list_and_goes_on_where_it_was(
    folders: dict[str, Path], prompts: Path, tmp_path: Path, runs: list[str]
) -> None:
    out = tmp_path / "out"
    words = [
        *("search", "--budget", "3", "--model", folders["1.5"], "--prompts", prompts, *SMALL),
        *("--policy", "reuse", "--lists", "3", "--out", out),
    ]
    assert main([str(word) for word in words]) == 0
    found = read_preset(str(out / "found.json"))
    clips, drifts = (lines(out, kind, "search.jsonl") for kind in ("clip", "drift"))
    errors = {
        line["policy"]: math.prod(
            other["l2"] for other in clips if other["policy"] == line["policy"]
        )
        for line in clips
        if line["policy"] != "full"
    }
    assert found.policy == min(errors, key=errors.get)
    assert found.schedule == preset(4, 5.0).schedule
    assert len(errors) <= 3
    assert {line["psnr"] for line in clips} == {None}, "nothing is decoded"
    (first,) = (d for d in drifts if d["policy"] == "reuse:step_list=0" and d["number"] == 1)
    pipeline, traces = Pipeline.load(folders["1.5"], dtype=torch.float32), []
    for policy in ("full", "reuse:step_list=0"):
        trace: list[torch.Tensor] = []
        given = {"seed": 1, "on_step": lambda event, to=trace: to.append(event.latents.clone())}
        pipeline.generate(PROMPTS[1], policy=policy, **given, **SAMPLED)
        traces.append(trace)
    size = traces[0][-1].norm()
    expected = [0.0, *((a - b).norm() / size for a, b in zip(*traces, strict=True))]
    assert first["values"] == pytest.approx([float(each) for each in expected], abs=1e-6)
    runs.clear()
    assert main([str(word) for word in words]) == 0
    assert runs == []


def test_conditionings_of_a_dit_alone_have_no_frames(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden, out = load_golden("hyvideo10"), tmp_path / "out"
    two = {name: torch.cat([tensor, tensor]) for name, tensor in golden.io.items() if tensor.ndim}
    latents = two["latents"]
    two["latents"] = torch.cat([latents[:1], -latents[:1]])
    save_file(two, tmp_path / "two.safetensors")
    words = [
        *("evaluate", "--caches", "--dit", golden.dit, "--predictor", golden.predictor),
        *("--conditioning", golden.folder / "io.safetensors", tmp_path / "two.safetensors"),
        *("--steps", golden.settings["steps"], "--shift", golden.settings["shift"]),
        *("--step-list", ",".join(map(str, golden.settings["step_list"]))),
        *("--policy", "disca", "--policy", "reuse:interval=2+disca", "--out", out),
    ]
    assert main([str(word) for word in words]) == 0
    clips = [line for line in lines(out, "clip") if line["policy"].startswith("disca:step_list=0,")]
    assert [line["number"] for line in clips] == [0, 1, 2]
    full, disca = golden.io["latents_restricted_meanflow"], golden.io["latents_disca"]
    assert clips[0]["l2"] == pytest.approx(relative_error(disca, full), rel=1e-3)
    assert clips[1]["l2"] == pytest.approx(clips[0]["l2"], rel=1e-5)
    kept = [load_file(out / "caches.references" / f"model-{n}.safetensors") for n in range(3)]
    assert [*kept[0]] == ["latents"]
    assert relative_error(kept[0]["latents"][None], full) <= 1e-4
    assert relative_error(kept[2]["latents"], kept[0]["latents"]) > 0.5, "of noise of its own"
    assert "PSNR" not in capsys.readouterr().out.partition("| policy")[2]
    assert (out / "caches.png").is_file()


WRONG = [
    (["--prompts", "4"], "--prompts must be a file of prompts, one a line"),
    (["--prompts", "absent.txt"], "--prompts must be a file, or a number, got 'absent.txt'"),
    (["--prompts", "{empty}"], "has no prompts; write one a line"),
    (["--prompts", "{digits}"], "line 2: the prompt has no words, got '12 34'"),
    (["--prompts", "{binary}"], "is not text in UTF-8"),
    ([], "give one of --prompts FILE, --conditioning FILE... and a prompt"),
    (["a cat", "--prompts", "{good}"], "give one of --prompts FILE, --conditioning FILE..."),
    (["--conditioning", "{good}"], "prompts.txt"),
    (["--prompts", "{good}", "--policy", "nonsense"], "policy must be one of"),
    (["--prompts", "{good}", "--policy", "reuse:interval=0"], "interval must be a whole number"),
    (["--prompts", "{good}", "--policy", "disca:step_list=0"], "needs a predictor"),
    (["--prompts", "{good}", "--policy", "reuse"], "steps 4 needs a step list"),
    (["--prompts", "{good}", "--policy", "reuse:step_list=0,9"], "step_list must stay below steps"),
    (["--prompts", "{good}", "--only", "nothing"], "--only 'nothing' is in no policy; they are"),
    (["--prompts", "{good}", "--size", "64x48x6"], "frames"),
    (["--prompts", "{good}", "--subjects", "base"], "--subjects is for the embedded model"),
    (["--prompts", "{good}", "--image", "{good}"], "prompts.txt"),
    (["--prompts", "{good}", "--guidance-scale", "-1"], "guidance_scale"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=[said for _, said in WRONG])
def test_wrong_inputs_are_refused_in_a_line(
    words: list[str],
    said: str,
    folders: dict[str, Path],
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "digits.txt").write_text("a cat\n12 34\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    names = {name: tmp_path / f"{name}.txt" for name in ("empty", "digits", "binary")}
    given = [word.format(good=prompts, **names) for word in words]
    size = [] if "--size" in words else SMALL[:2]
    command = ["evaluate", "--caches", "--model", folders["1.0"], *size, *SMALL[2:]]
    assert said in refusal([*command, "--out", tmp_path / "out", *given], capsys)
    assert not (tmp_path / "out" / "caches.md").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate", "--caches", "--steps", "4"], "--steps goes with --model or --dit"),
        (["evaluate", "--caches", "--prompts", "p.txt"], "a file, goes with --model or --dit"),
        (["evaluate", "--caches", "--latents-only"], "--latents-only goes with --model or --dit"),
        (["evaluate", "a cat"], "a prompt goes with --caches"),
        (["evaluate", "--model", "folder"], "--model goes with --caches"),
        (["evaluate", "--policy", "reuse"], "--policy goes with --caches"),
        (
            ["search", "--budget", "3", "--dit", "d", "--workers", "2"],
            "--workers is for the",
        ),
        (["search", "--budget", "3", "--seed", "4"], "--seed goes with --model or --dit"),
        (["search", "--budget", "3", "--dit", "d", "--policy", "full"], "must follow a step list"),
        (["search", "--budget", "3", "--dit", "d", "--step-list", "0,1"], "is what is searched"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refusal(words, capsys)


def test_ranks_are_refused(
    folders: dict[str, Path],
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("disca_rt.parallel.ranks.is_launched", lambda: True)
    assert judge(folders["1.0"], prompts, tmp_path / "out") == 2
    assert "the judge runs in one process; start it without torchrun" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "search"])
def test_help_names_the_flags_of_generate(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = capsys.readouterr().out
    for flag in (
        "--model",
        "--dit",
        "--prompts N|FILE",
        "--conditioning FILE",
        "--size",
        "--shift",
    ):
        assert flag in said
    assert "torchrun" not in said


def test_fingerprints_tell_weights_apart_and_not_their_places(tmp_path: Path) -> None:
    def file(name: str, changed: int | None = None) -> Path:
        values = bytearray(PIECE * PIECES + 5)
        if changed is not None:
            values[changed] = 1
        path = tmp_path / name / "model.safetensors"
        path.parent.mkdir()
        path.write_bytes(values)
        return path

    one = fingerprint([file("one")])
    assert fingerprint([file("copy")]) == one == fingerprint([tmp_path / "one"])
    assert fingerprint([file("first", 0)]) != one
    assert fingerprint([file("last", -1)]) != one
