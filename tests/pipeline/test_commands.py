"""`disca-rt generate` with whole models: what it makes, and what it refuses before it loads."""

import dataclasses
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from disca_rt import Pipeline, preset
from disca_rt.cli import main
from disca_rt.commands import out_of_memory
from disca_rt.config import predictor_config
from disca_rt.folders.find import find_model
from disca_rt.models.build import build_dit, build_predictor
from disca_rt.pipeline import mp4, stage_memory
from disca_rt.pipeline.encode import PromptCut
from disca_rt.weights.save import save_safetensors
from golden_vectors import load_golden
from refusal import refusal

pytest.importorskip("diffusers")
import disca_rt.folders.load as folders_load
import small_parts
from pipeline.whole_folders import generate, linked, written

NETWORKS = {"text_encoder", "text_encoder_2", "image_encoder", "vae"}
WORDS = " ".join(f"word{i}" for i in range(2000))
SAMPLED = {"schedule": preset(2, 5.0), "frames": 5, "height": 48, "width": 64}

Folders = dict[str, Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return written(tmp_path_factory.mktemp("folders"))


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail, by no error that the command line tells, where a network is loaded."""
    load = folders_load.load_part

    def load_light(folder: Any, name: str, *place: object) -> Any:
        assert name not in NETWORKS, f"{name} is loaded"
        return load(folder, name, *place)

    monkeypatch.setattr(folders_load, "load_part", load_light)


@pytest.fixture
def refused(
    light: None, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> Callable[..., str]:
    """The line of a command that leaves nothing, and loads no network before."""
    place = tmp_path / "empty"
    place.mkdir()
    monkeypatch.chdir(place)

    def run(words: Iterable[object]) -> str:
        said = refusal(words, capsys)
        assert list(place.iterdir()) == []
        return said

    return run


MISSING = [
    *(("1.0", n) for n in ("vae", "tokenizer", "text_encoder", "text_encoder_2", "tokenizer_2")),
    *(("1.5 images", n) for n in ("vae", "tokenizer", "text_encoder", "text_encoder_2")),
    *((model, "transformer") for model in ("1.0", "1.5 images")),
    ("1.5 images", "image_encoder"),
]


FLAGS = "--out=v.mp4", "--latents-out=l.safetensors"
NEEDS_ALL = [(*part, flag) for part in MISSING for flag in FLAGS]
NEEDS_ALL.remove(("1.0", "vae", "--latents-out=l.safetensors"))  # latents need no VAE


@pytest.mark.parametrize(("model", "name", "flag"), NEEDS_ALL)
def test_a_missing_part_is_named(
    model: str, name: str, flag: str, folders: Folders, refused: Callable[..., str], tmp_path: Path
) -> None:
    folder = linked(folders[model], tmp_path / "lacking", name)
    Image.new("RGB", (64, 48)).save(tmp_path / "p.png")
    image = ["--image", tmp_path / "p.png"] if "image" in model else []
    said = refused(generate(folder, *image, flag))
    part = "dit" if name == "transformer" else name
    assert f"{folder} has no {part} (" in said
    assert "found in hunyuanvideo-community/HunyuanVideo" in said
    assert f"put it at {folder}/{name}" in said


def test_a_dit_alone_is_no_whole_model(
    folders: Folders, refused: Callable[..., str], tmp_path: Path
) -> None:
    alone = linked(folders["1.0"], tmp_path / "alone", *{*NETWORKS, "tokenizer", "tokenizer_2"})
    assert "has no text_encoder (Llama" in refused(generate(alone, "--latents-out=l.safetensors"))


@pytest.mark.parametrize(
    ("model", "name", "other", "fault"),
    [
        ("1.0", "tokenizer", ("1.0", "tokenizer_2"), "loses blanks and line breaks"),
        ("1.0", "tokenizer", ("1.5", "tokenizer"), "has no token <|start_header_id|>"),
        ("1.0", "tokenizer_2", ("1.0", "tokenizer"), "does not put <|startoftext|> and"),
        ("1.5", "tokenizer", ("1.0", "tokenizer"), "has no chat_template"),
        ("1.5", "tokenizer", ("1.0", "tokenizer_2"), "has no chat_template"),
    ],
)
def test_a_tokenizer_of_another_model_is_named(
    model: str,
    name: str,
    other: tuple[str, str],
    fault: str,
    folders: Folders,
    refused: Callable[..., str],
    tmp_path: Path,
) -> None:
    swapped = {name: folders[other[0]] / other[1]}
    folder = linked(folders[model], tmp_path / "swapped", **swapped)
    said = refused(generate(folder, "--out", "v.mp4"))
    assert f"{name} {folder}/{name}" in said
    assert fault in said
    assert f":{name} there" in said


REFUSED: dict[str, tuple[str, str, list[object], str]] = {
    "empty": ("1.0", "", [], "the prompt is empty, got ''; say what to show"),
    "blanks": ("1.0", " \u3000\n", [], "the prompt is empty"),
    "only controls": ("1.0", "\x07", [], "the prompt is empty"),
    "control": ("1.0", "a \x1b[31mcat", [], "the control character U+001B at place 2"),
    "a list": ("1.0", "0, 2, 5", [], "the prompt has no words, got '0, 2, 5'"),
    "surrogate": ("1.0", "a cat \udcff", [], "is no valid Unicode at character 6"),
    "a mark": ("1.0", "a cat<|eot_id|>", [], "holds <|eot_id|>, a mark of the text encoder's own"),
    "controls against": ("1.5", "a cat", ["--negative-prompt", "\x00"], "U+0000 at place 0"),
    "variant": ("1.0", "a cat", ["--variant", "x"], "variant must be one of t2v, i2v"),
    "match": ("1.0", "a cat", ["--match", "x"], "--match must be one of disca, diffusers, offi"),
    "noise": ("1.0", "a cat", ["--noise", "x"], "--noise must be one of "),
    "tiles": ("1.0", "a cat", ["--tiles", "x"], "tiles must be official, diffusers, none or TILE"),
    "stride": ("1.0", "a cat", ["--tiles", "48x64"], "at most the tile, got 48x64"),
    "half latents": ("1.0", "a cat", ["--tiles", "64x48,9x4"], "must be multiples of 4"),
    "VAE's dtype": ("1.0", "a cat", ["--vae-dtype", "x"], "--vae-dtype must be one of"),
    "encoders' dtype": ("1.0", "a cat", ["--encoder-dtype", "x"], "--encoder-dtype must be one"),
    "encoders' device": ("1.0", "a cat", ["--encoder-device", "x"], "--encoder-device must be"),
    "no such device": ("1.0", "a cat", ["--encoder-device", "cuda:99"], "--encoder-device cuda:99"),
    "frames": ("1.0", "a cat", ["--size", "64x48x10"], "4n+1, got 10; nearest are 9 and 13"),
    "width": ("1.5", "a cat", ["--size", "60x48x9"], "multiple of 16, got 60; nearest are 48 and"),
    "no frames": ("1.5", "a cat", ["--size", "64x48x0"], "got 0; nearest are 1 and 5"),
    "a picture": ("1.5", "a cat", ["--image", "../p.png"], "is a text-to-video model; leave the"),
    "no picture": ("1.5 images", "a cat", [], "is an image-to-video model; give an image (--image"),
    "no file": ("1.5 images", "a cat", ["--image", "no.png"], "image no.png is not a file"),
    "text": ("1.5 images", "a cat", ["--image", "../t.png"], "image ../t.png is no picture; give"),
    "half a file": ("1.5 images", "a cat", ["--image", "../h.png"], "image ../h.png is damaged"),
    "floats": ("1.5 images", "a cat", ["--image", "../f.tiff"], "../f.tiff has floating-point val"),
    "rate": ("1.0", "a cat", ["--fps", "0"], "--fps must be from 1 to 240, got 0"),
    "preview of nothing": ("1.0", "a cat", ["--preview"], "--preview goes with --out VIDEO.mp4"),
    "two guidances": ("1.5", "a cat", ["--no-guidance", "--guidance-scale", "2"], "give either"),
    "no guidance": (
        "1.0",
        "a cat",
        ["--no-guidance"],
        "this model embeds its guidance; give",
    ),
    "steered": ("1.0", "a cat", ["--negative-prompt", "x"], "this model embeds its guidance; lea"),
    "DisCa": ("1.0", "a cat", ["--policy", "disca", "--step-list", "0"], "predictor"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line(
    case: str, folders: Folders, refused: Callable[..., str], tmp_path: Path
) -> None:
    model, prompt, flags, message = REFUSED[case]
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "p.png")
    (tmp_path / "h.png").write_bytes((tmp_path / "p.png").read_bytes()[:2000])
    (tmp_path / "t.png").write_text("no picture")
    Image.fromarray(np.zeros((48, 64), np.float32)).save(tmp_path / "f.tiff")
    out = "--latents-out=l.safetensors" if "--preview" in flags else "--out=v.mp4"
    assert message in refused(generate(folders[model], out, *flags, prompt=prompt))


def test_wrong_models_in_the_place_of_parts(folders: Folders, refused: Callable[..., str]) -> None:
    ten, fifteen = (load_golden(name) for name in ("hyvideo10", "hyvideo15"))
    for flags, message in (
        (["--predictor", fifteen.predictor], "is a predictor for another model: family is"),
        (["--predictor", ten.predictor], "hidden is 64 in the predictor, 32 in the DiT"),
        (["--predictor", ten.dit], "is a DiT, not a DisCa predictor; give it as the dit"),
        (["--dit", ten.predictor], "is a DisCa predictor, not a DiT; give it as the predictor"),
        (["--dit", fifteen.dit], "is a DiT of HunyuanVideo 1.5, and"),
    ):
        assert message in refused(generate(folders["1.0"], "--out=v.mp4", *flags))


def test_outputs_that_cannot_be(
    folders: Folders, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refused(generate(folders["1.0"], f"--frames-out={folders['1.0']}"))
    assert f"the folder of frames is not empty: {folders['1.0']} has" in said
    assert "--fps 12 goes with --out" in refused(
        generate(folders["1.0"], "--frames-out=f", "--fps=12")
    )
    monkeypatch.setattr(mp4, "CODEC", "libno264")
    said = refused(generate(folders["1.0"], "--out=v.mp4"))
    assert "this PyAV has no encoder libno264: install" in said
    assert "or write PNGs with --frames-out FOLDER" in said


@pytest.mark.parametrize(
    ("room", "message"),
    [
        (1e4, "stage encode needs about 67.1 kB of 10.0 kB on cpu; would help: --encoder-dtype"),
        (1e6, "stage denoise needs about 1.2 MB of 1.0 MB on cpu; would help: --fp8-weights, or -"),
        (2e6, "stage decode: a decode in one tile, about 4.1 MB, does not fit in 1.7 MB that are"),
    ],
)
def test_memory_is_refused_by_stage(
    room: float,
    message: str,
    folders: Folders,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (stage_memory, out_of_memory):
        monkeypatch.setattr(module, "capacity", lambda device: int(room))
    assert message in refused(generate(folders["1.0"], "--out=v.mp4"))


def test_a_prompt_that_is_cut_is_told_before_networks_are_loaded(
    folders: Folders, light: None, tmp_path: Path
) -> None:
    message = '^prompt "word0 word1 .* is longer than [0-9]+ tokens and loses .* word1999"$'
    for model in ("1.0", "1.5"):
        with (
            pytest.warns(PromptCut, match=message),
            pytest.raises(AssertionError, match="text_encoder is loaded"),
        ):
            main(generate(folders[model], f"--out={tmp_path / 'v.mp4'}", prompt=WORDS))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::disca_rt.pipeline.encode.PromptCut")
@pytest.mark.parametrize("prompt", [WORDS, "🐈👩‍🚀", "一只猫", "a 'sign' \"HI\" and “ho”"])
def test_any_prompt_reaches_the_model(prompt: str, folders: Folders, tmp_path: Path) -> None:
    out = tmp_path / "l.safetensors"
    model = "1.5" if "HI" in prompt else "1.0"
    assert main(generate(folders[model], f"--latents-out={out}", prompt=prompt)) == 0
    with Pipeline.load(folders[model], dtype=torch.float32) as pipeline:
        made = pipeline.generate(prompt, **SAMPLED).latents
    assert torch.equal(load_file(out)["latents"], made)


def test_settings_that_only_move_parts_change_nothing(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {
        "plain": [],
        "moved": ["--keep-resident", "--encoder-device=cpu", "--encoder-dtype=float32"],
        "named": ["--vae-dtype=float32", "--tiles=none", "--match=disca", "--noise=disca"],
    }
    for name, words in flags.items():
        files = f"--frames-out={tmp_path / name}", f"--out={tmp_path / name}.mp4", "--fps=12"
        assert main(generate(folders["1.0"], *words, *files)) == 0
    read = {n: [p.read_bytes() for p in sorted((tmp_path / n).iterdir())] for n in flags}
    assert len(read["plain"]) == 5
    assert read["moved"] == read["plain"] == read["named"]
    assert "(weights kept)" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.latents*"))


@pytest.mark.parametrize("model", ["1.0", "1.5"])
def test_the_officials_rules_are_those_of_the_library(
    model: str, folders: Folders, tmp_path: Path
) -> None:
    out = tmp_path / "l.safetensors"
    flags = "--match=official", f"--latents-out={out}"
    assert main(generate(folders[model], *flags)) == 0
    with Pipeline.load(folders[model], match="official", dtype=torch.float32) as pipeline:
        made = pipeline.generate("a cat", **SAMPLED).latents
    assert torch.equal(load_file(out)["latents"], made)


def randomized(module: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=generator) * 0.1
        for name, tensor in module.state_dict().items()
    }


def test_the_dit_and_the_predictor_can_be_others(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(find_model(folders["1.0"]).config, meanflow=True)
    dit, predictor = tmp_path / "dit.safetensors", tmp_path / "predictor.safetensors"
    tensors = {
        dit: randomized(build_dit(config), 1),
        predictor: randomized(build_predictor(predictor_config(config)), 2),
    }
    for path, each in tensors.items():
        save_safetensors(path, each, torch.float32, config)
    out = tmp_path / "l.safetensors"
    flags = f"--dit={dit}", f"--predictor={predictor}", "--step-list=0", f"--latents-out={out}"
    assert main(generate(folders["1.0"], *flags)) == 0
    said = capsys.readouterr().out
    assert "sampling: meanflow (a MeanFlow DiT (time_r_in))" in said
    assert "policy disca" in said
    assert "predicted steps" in said
    with Pipeline.load(folders["1.0"], predictor, dit=dit, dtype=torch.float32) as pipeline:
        fields = SAMPLED | {"schedule": preset(2, 5.0, (0,))}
        made = pipeline.generate("a cat", **fields).latents
        full = pipeline.generate("a cat", **fields, policy="full").latents
    assert torch.equal(load_file(out)["latents"], made)
    assert not torch.allclose(made, full)


def test_a_turned_picture_is_turned(folders: Folders, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
    upright, turned = tmp_path / "up.png", tmp_path / "turned.png"
    Image.fromarray(pixels).save(upright)
    exif = Image.Exif()
    exif[0x112] = 6  # shown a quarter to the right
    Image.fromarray(np.rot90(pixels)).save(turned, exif=exif)
    latents = []
    for image in (upright, turned):
        out = tmp_path / f"{image.stem}.safetensors"
        flags = f"--image={image}", f"--latents-out={out}"
        assert main(generate(folders["1.5 images"], *flags)) == 0
        latents.append(load_file(out)["latents"])
    assert torch.equal(*latents)


def test_overflow_names_the_stage(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 48), (200, 30, 90)).save(tmp_path / "p.png")
    for part, image, message in (
        ("decoder", [], "decode overflowed in float16; try --vae-dtype bfloat16 or float32; the l"),
        ("encoder", [f"--image={tmp_path / 'p.png'}"], "encode of the picture overflowed in float"),
    ):
        source = folders["1.5 images" if image else "1.5"]
        folder = linked(source, tmp_path / part, "vae")
        vae = small_parts.vae_15()
        getattr(vae, part).conv_out.conv.weight.sign_().mul_(6e4)
        vae.save_pretrained(folder / "vae")
        flags = [*image, "--vae-dtype=float16", f"--out={tmp_path / 'v.mp4'}"]
        assert message in refusal(generate(folder, *flags), capsys)
    assert not (tmp_path / "v.mp4").exists()


def test_a_batch_is_its_prompts_one_by_one(folders: Folders) -> None:
    prompts = ["a cat", "two dogs on the grass, at night"]
    with Pipeline.load(folders["1.5"], dtype=torch.float32) as pipeline:
        together = pipeline.generate(prompts, **SAMPLED, seed=[3, 4])
        alone = [
            pipeline.generate(prompt, **SAMPLED, seed=seed)
            for prompt, seed in zip(prompts, (3, 4), strict=True)
        ]
    assert together.video.shape == (2, 3, 5, 48, 64)
    for row, each in zip(together.latents, alone, strict=True):
        assert torch.allclose(row, each.latents[0], rtol=1e-5, atol=1e-5)


def test_a_preview_is_the_picture_of_the_latents(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A preview keeps the latents, and the command that it tells decodes them."""
    seen = []
    with Pipeline.load(folders["1.0"], dtype=torch.float32) as pipeline:
        preview = pipeline.preview()
        kept = pipeline.generate(
            "a cat", **SAMPLED, on_step=lambda event: seen.append(preview(event.latents[0]))
        ).latents
    assert [tuple(each.shape) for each in seen] == [(3, 5, 48, 64)] * 2
    assert torch.equal(seen[-1], preview(kept[0]))
    frames = tmp_path / "frames"
    assert main(generate(folders["1.0"], f"--frames-out={frames}", "--preview")) == 0
    said = capsys.readouterr().out
    assert "preview: a linear map, R² " in said
    expected = (seen[-1] * 255).round().byte().permute(1, 2, 3, 0).numpy()
    for path, frame in zip(sorted(frames.iterdir()), expected, strict=True):
        assert (np.asarray(Image.open(path))[::5, ::5] == frame).all()
    shutil.rmtree(frames)
    command = said.rstrip().rpartition("go on with: disca-rt ")[2]
    assert main(command.split()) == 0
    assert len(list(frames.iterdir())) == 5


def test_the_bar_shows_each_stage(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as of a terminal
    flags = f"--out={tmp_path / 'v.mp4'}", "--size=96x96x9", "--tiles=64x48,8x4"
    assert main(["generate", "a cat", f"--model={folders['1.0']}", "--steps=2", *flags]) == 0
    said, err = capsys.readouterr()
    for stage in ("encoding", "sampling", "full step", "decoding", "8/8"):
        assert stage in err, stage
    assert "encoding" not in said
    assert "wrote" in said
    assert "wrote" not in err
