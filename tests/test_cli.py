"""`disca-rt` as a user types it: what it writes, what it says, how it fails."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from disca_rt import Request, get_preset, load_tiny
from disca_rt.cache.method import Method, everywhere
from disca_rt.cache.plan import Ask, Probe
from disca_rt.cache.policies import POLICIES, read_policy
from disca_rt.cache.rule import Memoryless
from disca_rt.cache.stand_ins.reuse import Reuse
from disca_rt.cli import _format_warning, build_parser, main
from disca_rt.commands.sampling import check_shares
from disca_rt.pipeline.runtime import Runtime
from disca_rt.schedule import preset
from disca_rt.tiny.prompts import encode
from disca_rt.weights.errors import CheckpointWarning
from golden_vectors import NAMES, Golden, load_golden, relative_error
from refusal import refusal

PROMPT = "a small red circle moving left on a black background"


@pytest.fixture(scope="module", params=NAMES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return load_golden(request.param)


def golden_arguments(golden: Golden, out: Path, /, **flags: object) -> list[str]:
    given = {
        "dit": golden.dit,
        "predictor": golden.predictor,
        "conditioning": golden.folder / "io.safetensors",
        "latents-out": out,
        "steps": golden.settings["steps"],
        "shift": golden.settings["shift"],
        "step-list": ",".join(map(str, golden.settings["step_list"])),
        "dtype": "float32",
        **flags,
    }
    flags_text = [(f"--{name}", str(value)) for name, value in given.items() if value is not None]
    return ["generate", *(part for pair in flags_text for part in pair)]


@pytest.mark.parametrize(
    ("policy", "expected"), [("disca", "latents_disca"), ("full", "latents_restricted_meanflow")]
)
def test_saved_conditioning_gives_the_golden_latents(
    golden: Golden, tmp_path: Path, policy: str, expected: str
) -> None:
    out = tmp_path / "deep" / "out.safetensors"
    assert main(golden_arguments(golden, out, policy=policy)) == 0
    saved = load_file(out)
    assert set(saved) == {"latents"}
    assert relative_error(saved["latents"], golden.io[expected]) <= 1e-4


def test_prompt_gives_an_mp4_and_a_contact_sheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "video.mp4"
    assert main(["generate", PROMPT, "--out", str(out)]) == 0
    with av.open(str(out)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 5
    assert frames[0].shape == (240, 320, 3)
    sheet = np.asarray(Image.open(tmp_path / "video.png"))
    assert sheet.shape == (240, 5 * 320 + 4 * 4, 3)
    # H.264 and chroma subsampling blur edges, so the two agree on average only.
    assert np.abs(sheet[:, :320].astype(float) - frames[0]).mean() < 6
    said = capsys.readouterr().out
    stages = "conditioning", "full steps", "predicted steps", "decode", "video.mp4", "video.png"
    assert all(stage in said for stage in stages), said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["video.mp4", "video.png"]


def test_same_seed_same_file(tmp_path: Path) -> None:
    outs = [tmp_path / f"{name}.safetensors" for name in "abc"]
    short = ["--step-list", "0", "--steps", "2"]
    for out, seed in zip(outs, "778", strict=True):
        main(["generate", PROMPT, "--latents-out", str(out), *short, "--seed", seed])
    latents = [load_file(out)["latents"] for out in outs]
    assert torch.equal(latents[0], latents[1])
    assert not torch.equal(latents[0], latents[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate"], "give either a prompt or --conditioning"),
        (["generate", "a red dog moving left"], "dog"),
        (["generate", PROMPT, "--size", "32x23x5"], "height must be divisible by 4, got 23"),
        (["generate", PROMPT, "--size", "32x24"], "must be WIDTHxHEIGHTxFRAMES"),
        (["generate", PROMPT, "--out", "video.avi"], "--out must end in .mp4"),
        (["generate", PROMPT, "--steps", "0"], "steps must be at least 1"),
        (["generate", PROMPT, "--steps", "30"], "give --step-list, such as 0,1,2,5, or --policy"),
        (
            ["generate", PROMPT, "--policy", "teecache"],
            "(disca-rt caches lists all), got 'teecache'; near it: teacache",
        ),
        (["generate", PROMPT, "--preset", "fast"], "preset must be one of"),
        (["generate", PROMPT, "--step-list", "1,2"], "must begin with 0"),
        (["generate", PROMPT, "--step-list", "a,b"], "must be step indices with commas"),
        (["generate", PROMPT, "--step-list"], "must be step indices with commas"),
        (["generate", "--seed", "1", "2"], "the prompt has no words, got '2'; a flag takes one"),
        (["generate", "--step-list=0", "2,5"], "give either a prompt or --conditioning"),
        (["generate", PROMPT, "--size", "704", "704", "129"], "must be WIDTHxHEIGHTxFRAMES"),
        (["generate", *PROMPT.split()], "a prompt of several words has quotes"),
        (["plan", "--world-sizes", "[2,x]"], "must be numbers of ranks"),
        (["generate", PROMPT, "--size", "20000x32x1"], "sides of an mp4 must be at most 16384"),
        (["generate", PROMPT, "--no-guidance", "--classifier-free-scale", "2"], "give either"),
        (
            ["generate", "--conditioning", "no/such.safetensors"],
            "no/such.safetensors is not a file",
        ),
        (["generate", PROMPT, "--step-list", "0,1_0"], "must be step indices"),
        (["generate", PROMPT, "--negative-prompt", "a red circle"], "embeds its guidance"),
        (["generate", PROMPT, "--steps", "x"], "--steps"),
        (["generate", PROMPT, "--seed", "18446744073709551615"], "--seed must be from"),
        (["generate", PROMPT, "--fps", "99999999999"], "--fps must be from 1 to 240"),
        (["generate", PROMPT, "--size", "99996x99996x9999"], "out of memory"),
        (["generate", PROMPT, "--out", "a" * 300 + ".mp4"], "--out cannot be written"),
        (["train", "predictor", "--fp8-weights"], "unrecognized arguments: --fp8-weights"),
        (["unknown"], "invalid choice: 'unknown'"),
        (["generate", PROMPT, "--dtype", "fp8"], "--dtype must be one of"),
        (["generate", PROMPT, "--device", "tpu"], "--device must be"),
        (["generate", PROMPT, "--attention", "fa9"], "attention backend must be one of"),
        (["generate", PROMPT, "--attention", "cudnn"], "cannot run on cpu"),
        (["generate", PROMPT, "--graphs"], "--graphs needs a CUDA device, got --device cpu"),
        (["generate", PROMPT, "--no-guidance"], "--no-guidance: this model embeds its guidance"),
        (["generate", PROMPT, "--ops", "cutlass"], "ops must be one of"),
        (["generate", PROMPT, "--dit", "no/such.safetensors"], "no/such.safetensors"),
        (["generate", PROMPT, "--fps", "0"], "--fps must be from 1 to 240"),
        (["generate", PROMPT, "--guidance-scale", "nan"], "guidance_scale must be a finite number"),
        (["inspect", "no/such.safetensors"], "no/such.safetensors"),
        (["flops", "--size", "700x704x129"], "width must be a multiple of 16, got 700"),
        (["flops", "--size", "704x704x128"], "frames must be 4n+1, got 128"),
        (["flops", "--model", "wan"], "model must be one of"),
        (["flops", "--text-tokens", "0"], "--text-tokens must be at least 1"),
        (["flops", "--steps", "12", "--policy", "disca"], "needs a step list"),
        (["flops", "--steps", "0"], "steps must be at least 1"),
        (
            ["flops", "--policy", "taylor:interval=3", "--step-list", "0,1"],
            "policy taylor:interval=3 says which steps are full; leave --step-list out",
        ),
        (["flops", "--model", "hunyuan-video", "--policy", "disca"], "default has every step full"),
        (
            ["flops", "--preset", "full-50", "--policy", "disca"],
            "preset full-50 has every step full",
        ),
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
    assert message in refusal(arguments, capsys)
    assert list(tmp_path.iterdir()) == [], "nothing half-written"


@pytest.fixture
def refused(
    golden: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    """`refused(flag=value)`: why the golden sample is not generated with this flag."""
    out = tmp_path / "sub" / "out.safetensors"
    yield lambda **flags: refusal(golden_arguments(golden, out, **flags), capsys)
    assert not out.parent.exists()


def test_broken_checkpoints(golden: Golden, tmp_path: Path, refused: Callable[..., str]) -> None:
    broken = tmp_path / "broken.safetensors"
    shutil.copy(golden.folder / "config.json", tmp_path)
    whole = golden.dit.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    assert "broken.safetensors" in refused(dit=broken)
    broken.write_bytes(b"\x00" * 1000)
    assert "broken.safetensors" in refused(dit=broken)
    weights = load_file(golden.dit)
    weights["final_layer.linear.weight"][0, 0] = float("nan")
    save_file(weights, broken)
    assert "not finite" in refused(dit=broken)
    other = load_golden(next(name for name in NAMES if name != golden.folder.name))
    assert "another model" in refused(predictor=other.predictor)
    assert "not a predictor" in refused(predictor=golden.dit)
    assert "not a DiT" in refused(dit=golden.predictor)
    conditioning = other.folder / "io.safetensors"
    assert refused(conditioning=conditioning)
    assert "lacks text_states" in refused(conditioning=broken)
    assert "is not a file" in refused(conditioning=tmp_path)


CONDITIONING = {name: list(load_golden(name).conditioning.tensors()) for name in NAMES}


@pytest.mark.parametrize("prefix", ["", "negative_"])
@pytest.mark.parametrize("change", ["no batch", "two samples", "all without batch"])
@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family in NAMES for name in CONDITIONING[family]]
)
def test_a_conditioning_of_the_wrong_shape_is_named(
    family: str,
    name: str,
    change: str,
    prefix: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    golden = load_golden(family)
    tensors = {n: golden.io[n] for n in CONDITIONING[family]} | {"latents": golden.io["latents"]}
    tensors |= {f"negative_{n}": golden.io[n].clone() for n in CONDITIONING[family]}
    changed = CONDITIONING[family] if change == "all without batch" else [name]
    for each in changed:
        tensor = tensors[prefix + each]
        tensors[prefix + each] = torch.cat([tensor] * 2) if change == "two samples" else tensor[0]
    save_file(
        {n: tensor.contiguous() for n, tensor in tensors.items()}, tmp_path / "io.safetensors"
    )
    flags = {"conditioning": tmp_path / "io.safetensors", "classifier-free-scale": 2}
    said = refusal(golden_arguments(golden, tmp_path / "out.safetensors", **flags), capsys)
    shape = list(tensors[prefix + name].shape)
    if change == "all without batch":
        assert f"{prefix}text_states must be" in said
    elif change == "two samples" and not prefix and name == "text_states":
        assert "latents must be [2, 4, T, H, W]" in said, "two samples, everything else is of one"
    else:
        assert f"{prefix}{name} must be" in said
        assert str(shape) in said


def test_negative_tensors_of_a_model_that_embeds_guidance_are_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden, out = load_golden("hyvideo10"), tmp_path / "out.safetensors"
    states, mask = -golden.io["text_states"], golden.io["text_mask"].clone()
    negative = {"negative_text_states": states, "negative_text_mask": mask}
    flags = {"conditioning": with_tensors(golden, tmp_path / "io.safetensors", **negative)}
    assert main(golden_arguments(golden, out, **flags)) == 0
    assert "are left out: this model embeds its guidance; --classifier" in capsys.readouterr().out
    assert relative_error(load_file(out)["latents"], golden.io["latents_disca"]) <= 1e-4
    assert main(golden_arguments(golden, out, **flags, **{"classifier-free-scale": 6})) == 0
    assert "left out" not in capsys.readouterr().out
    assert relative_error(load_file(out)["latents"], golden.io["latents_disca"]) > 1e-3


@pytest.mark.parametrize(
    "words",
    [
        "--step-list 0,2,5",
        "--step-list 0 2 5",
        "--step-list=0 2 5",
        "--step-list 0, 2, 5",
        "--step-list|0, 2, 5",
        "--step-list|[0, 2, 5]",
        "--step-list=0 2,5",
        "--step-list [0, 2, 5]",
        "--step-list|(0;2;5)",
        "--step-list 0,2,5,",
        "--sigmas 1 .5 5e-2",
        "--sigmas [1.0, 0.5, 0.05]",
        "--timesteps=1000 500. 50",
        "--policy taylor:order=2, interval=5",
        "--policy taylor order=2 interval=5",
        "--policy|taylor: order=2, interval=5",
    ],
)
def test_a_list_is_taken_as_other_tools_write_it(words: str) -> None:
    separator = "|" if "|" in words else " "
    args = build_parser().parse_args(["generate", *words.split(separator), PROMPT, "--seed", "-3"])
    assert (args.prompt, args.seed) == (PROMPT, -3)
    assert args.step_list in ((0, 2, 5), None)
    assert args.sigmas in ((1.0, 0.5, 0.05), None)
    assert args.timesteps in ((1000.0, 500.0, 50.0), None)
    if args.policy is not None:
        assert read_policy(args.policy) == read_policy("taylor:order=2,interval=5")
    assert [args.step_list, args.sigmas, args.timesteps, args.policy].count(None) == 3


def test_ranks_and_sizes_that_do_not_fit_are_said_as_plan_says_it() -> None:
    conditioning, schedule = encode(["a red circle moving left"]), get_preset("disca-n4")
    given = {"conditioning": conditioning, "latent_shape": (12, 1, 2, 2)}
    request = Request(**given, schedule=schedule, policy="disca")
    runtime = load_tiny()
    for ranks, degree, message in (
        (8, None, "ranks must be at most the [0-9]+ tokens, got 8"),
        (6, 4, "ulysses_degree must divide the 6 ranks"),
    ):
        args = SimpleNamespace(ulysses_degree=degree, head_chunks=None)
        with pytest.raises(ValueError, match=message):
            check_shares(args, runtime, SimpleNamespace(size=ranks, per_node=ranks), request)


def with_tensors(golden: Golden, path: Path, **tensors: torch.Tensor) -> Path:
    save_file({**golden.io, **tensors}, path)
    return path


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("text_states", torch.tensor(1.0), "text_states has no samples"),
        ("text_states", torch.zeros(1, 16, 40).to(torch.float8_e4m3fn), "text_states must be"),
        ("text_states", torch.full((1, 16, 40), float("nan")), "not finite"),
        ("text_states", torch.zeros(1, 16, 41), "text_states must be [1, L, 40]"),
        ("text_mask", torch.full((1, 16), -1), "text_mask must hold 1 for valid"),
        ("text_mask", torch.zeros(1, 16), "at least one valid token"),
        ("cond_latents", torch.zeros(5, 3, 8, 12), "cond_latents"),
        ("latents", torch.zeros(2, 4, 3, 8, 12), "latents must be [1, 4, T, H, W]"),
        ("latents", torch.zeros(1, 4, 3, 7, 12), "latents"),
        ("latents", torch.zeros(1, 4, 3, 8, 12).to(torch.complex64), "latents must be"),
    ],
)
def test_broken_conditioning(
    golden: Golden,
    name: str,
    tensor: torch.Tensor,
    message: str,
    tmp_path: Path,
    refused: Callable[..., str],
) -> None:
    broken = with_tensors(golden, tmp_path / "io.safetensors", **{name: tensor})
    assert message in refused(conditioning=broken)


@pytest.mark.parametrize("values", [[6000.0, 1000.0], [], [6000.0] * 3, [6.0], [float("nan")]])
def test_guidance_of_a_file_is_one_value(
    values: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = load_golden("hyvideo10")
    broken = with_tensors(golden, tmp_path / "io.safetensors", guidance=torch.tensor(values))
    arguments = golden_arguments(golden, tmp_path / "out.safetensors", conditioning=broken)
    assert "guidance" in refusal(arguments, capsys)


def test_unwritable_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    for target in (tmp_path / "broken" / "v.mp4", Path("/proc/disca/v.mp4")):
        assert "--out cannot be written" in refusal(["generate", PROMPT, "--out", target], capsys)
    said = refusal(["evaluate", "--quick", "--out", tmp_path / "broken"], capsys)
    assert "--out cannot be written" in said
    folder = tmp_path / "folder.mp4"
    folder.mkdir()
    assert "--out is a folder" in refusal(["generate", PROMPT, "--out", folder], capsys)
    (tmp_path / "sheet.png").mkdir()
    assert "contact sheet" in refusal(["generate", PROMPT, "--out", tmp_path / "sheet.mp4"], capsys)


def pair_of_prompts(path: Path) -> Path:
    tensors = encode([PROMPT, "a large blue square moving up"]).tensors()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def test_every_sample_of_a_batch_is_written_or_none_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, out = pair_of_prompts(tmp_path / "two.safetensors"), tmp_path / "out"
    short = ["--size", "32x24x3", "--steps", "2", "--step-list", "0"]
    flags = ["generate", "--conditioning", str(saved), *short, "--out", str(out / "v.mp4")]
    assert main([*flags, "--latents-out", str(out / "l.safetensors")]) == 0
    names = ["l.safetensors", "v-0.mp4", "v-0.png", "v-1.mp4", "v-1.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert len(load_file(out / "l.safetensors")["latents"]) == 2
    sheets = [np.asarray(Image.open(out / f"v-{i}.png")).astype(float) for i in range(2)]
    assert np.abs(sheets[0] - sheets[1]).mean() > 1
    shutil.rmtree(out)
    (out / "v-1.png").mkdir(parents=True)
    assert "v-1.png; name a file in it" in refusal(flags, capsys)


def test_a_flag_that_is_not_known_is_no_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(["generate", PROMPT, "--stepz", "3"], capsys)
    assert said == "unrecognized arguments: --stepz 3"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_writes_nothing(tmp_path: Path, number: signal.Signals) -> None:
    command = sys.executable, "-m", "disca_rt", "generate", PROMPT
    process = subprocess.Popen(
        [*command, "--steps=100000", "--policy=full", f"--out={tmp_path / 'v.mp4'}"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a background
    )
    try:
        time.sleep(0.5)
        while process.poll() is None and not _is_sampling(process.pid):
            time.sleep(0.2)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert error.strip().splitlines()[-1] == "disca-rt: error: interrupted; nothing was written"
    assert list(tmp_path.iterdir()) == []


def _is_sampling(pid: int) -> bool:
    """PyTorch is mapped and the process has used a few seconds of CPU."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11]
    return int(ticks) / os.sysconf("SC_CLK_TCK") > 3


@pytest.mark.parametrize(("flag", "fp8"), [(["--fp8-weights"], "weights"), (["--fp8-table"], None)])
def test_fp8_is_that_of_the_library(
    golden: Golden, tmp_path: Path, flag: list[str], fp8: str | None
) -> None:
    out = tmp_path / "out.safetensors"
    if fp8 is None:
        table = tmp_path / "table.json"
        table.write_text('{"double_blocks.1.img_mlp.fc2": "16 bits"}')
        flag, fp8 = [*flag, str(table)], str(table)
    assert main([*golden_arguments(golden, out, policy="disca"), *flag]) == 0
    files, settings = (golden.dit, golden.predictor), golden.settings
    runtime = Runtime.load(*files, dtype=torch.float32, fp8=fp8)
    expected = runtime.sample(
        golden.conditioning,
        schedule=preset(settings["steps"], settings["shift"], tuple(settings["step_list"])),
        policy="disca",
        latents=golden.io["latents"],
    ).latents
    saved = load_file(out)["latents"]
    assert torch.equal(saved, expected)
    assert relative_error(saved, golden.io["latents_disca"]) > 1e-4, "they were not coded"


def test_one_use_of_fp8_is_given() -> None:
    with pytest.raises(SystemExit):
        main(["generate", PROMPT, "--fp8", "--fp8-weights"])


def test_flags_that_would_be_ignored_are_refused(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    assert "--out needs the VAE" in refused(out=tmp_path / "v.mp4")
    assert "--size is settled" in refused(size="64x64x5")
    assert "negative_*" in refused(**{"negative-prompt": "blurry"})
    assert "goes with --out" in refused(fps=5)


def test_inspect_says_what_a_checkpoint_is(
    golden: Golden, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(golden.dit), str(golden.predictor)]) == 0
    said = capsys.readouterr().out
    family = "hunyuan-video-1.0" if golden.folder.name == "hyvideo10" else "hunyuan-video-1.5"
    parameters = sum(tensor.numel() for tensor in load_file(golden.dit).values())
    inputs = "4 latent channels" if family.endswith("1.0") else "4 latent + 4 image + 1 mask"
    said_parts = family, "meanflow", f"{parameters:,}", "bfloat16", "the predictor fits the DiT"
    for part in (*said_parts, inputs):
        assert part in said, part


def test_inspect_says_why_a_predictor_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    ten, fifteen = (load_golden(name) for name in NAMES)
    assert main(["inspect", str(ten.dit), str(fifteen.predictor)]) == 0
    assert "does not fit the DiT: family is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ("", ("63888 image tokens", "11.89x", "3.43%")),  # the paper's table
        ("--preset disca-n4 --policy disca", ("11.89x",)),
        ("--preset disca-n4 --policy reuse", ("12.50x",)),
        ("--steps 20 --policy full --step-list 0,3", ("20 x 1",)),
        (
            "--steps 50 --policy reuse:interval=5",
            ("50 steps in full", "5.00x against its 50 steps in full"),
        ),
        ("--steps 50 --cfg --policy fora", ("one full step 7,810.75", "the cheapest of fora 0.36")),
        ("--steps 50 --policy pab:disca-n5", ("the cheapest of pab 629.73 TFLOP (16.12%)",)),
    ],
)
def test_flops_counts(
    flags: str, parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["flops", *flags.split()]) == 0
    said = capsys.readouterr().out
    assert all(part in said for part in parts), said


def test_classifier_free_guidance_from_a_file(tmp_path: Path) -> None:
    golden = load_golden("hyvideo15")
    states, mask = golden.io["text_states"].flip(1).contiguous(), golden.io["text_mask"].clone()
    negative = {"negative_text_states": states, "negative_text_mask": mask}
    with_negative = with_tensors(golden, tmp_path / "io.safetensors", **negative)
    outs = {scale: tmp_path / f"{scale}.safetensors" for scale in ("1", "6")}
    for scale, out in outs.items():
        flags = {"conditioning": with_negative, "guidance-scale": scale}
        assert main(golden_arguments(golden, out, **flags)) == 0
    latents = {scale: load_file(out)["latents"] for scale, out in outs.items()}
    assert relative_error(latents["1"], golden.io["latents_disca"]) <= 1e-4
    assert relative_error(latents["6"], latents["1"]) > 1e-2


@dataclass(frozen=True)
class Changing(Memoryless):
    """A rule that looks at the change of the latents before each step."""

    probes: ClassVar = (Probe("latents"),)

    def decide(self, setting, step, seen, memory):
        if self.probes[0] not in seen:
            return Ask(self.probes[0])
        is_small = step.index > 0 and seen[self.probes[0]].ratio < 0.1
        return setting.predicted if is_small else setting.full


def test_a_policy_that_measures_is_a_row_for_each_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(POLICIES, "changing", Method((Changing,), everywhere(Reuse)))
    out = tmp_path / "out.mp4"
    flags = ["--policy", "changing", "--steps", "8"]
    assert main(["generate", PROMPT, *flags, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "full steps" in said
    assert "predicted steps" in said
    assert "decides by what it measures" in refusal(["flops", *flags], capsys)


def test_a_sample_in_which_nothing_was_cached_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--steps", "3", "--size", "16x16x2", "--latents-out", str(tmp_path / "x.safetensors")]
    for policy, is_told in (
        ("teacache:rel_l1_thresh=0", True),
        ("reuse:interval=1", True),
        ("reuse:interval=2", False),
        ("full", False),
    ):
        assert main(["generate", PROMPT, *flags, "--policy", policy]) == 0
        said = f"policy {policy}: nothing was cached at these settings\n"
        assert (said in capsys.readouterr().out) == is_told, policy


@pytest.mark.parametrize(
    ("file", "lines"),
    [
        ("harmonica", ("learned gates, or heads, of branches", "harmonica", "gates [20, 18]")),
        ("lazydit", ("learned gates, or heads, of branches", "lazydit", "heads [20, 18, ")),
    ],
)
def test_inspect_knows_files_that_cache_methods_learned(
    file: str, lines: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(__file__).parents[1] / "ladder" / "caches" / f"{file}.safetensors"
    assert main(["inspect", str(path)]) == 0
    said = capsys.readouterr().out
    assert all(line in said for line in (*lines, f"{file}:{lines[-1].split()[0]}=")), said


@pytest.mark.parametrize("command", ["evaluate", "search"])
def test_help_says_which_flags_go_with_a_model(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = capsys.readouterr().out
    _, _, inputs = said.partition("input; only with --model or --dit:")
    assert "--image" in inputs.partition("\n\n")[0]
    assert "all but --device only with --model or --dit:" in said
    if command == "evaluate":
        assert "default 300, with --caches 100;" in said
        assert "8 prompts; with --caches 4 prompts and few methods" in said


def test_what_is_unusual_about_a_checkpoint_is_one_line() -> None:
    said = _format_warning("x.pt mixes dtypes", CheckpointWarning, "load.py", 3)
    assert said == "disca-rt: warning: x.pt mixes dtypes\n"
    assert "load.py:3" in _format_warning("another's", UserWarning, "load.py", 3)
