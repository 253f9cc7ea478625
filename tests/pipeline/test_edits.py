"""Edits from end to end: masks, requests, the command and its page, with the embedded model."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from disca_rt import Request, Runtime, get_preset, load_tiny, shifted, write_mp4
from disca_rt.cache.token_mask import TokenMask
from disca_rt.cli import main
from disca_rt.pipeline.masks import read_mask, token_mask
from disca_rt.vae.sizes import SIZES
from refusal import refusal

RED = "a small red circle moving left on a black background"
BLUE = RED.replace("red", "blue")
PAGE = Path(__file__).parents[2] / "docs" / "pipeline.md"
SIZE, LATENTS = (5, 24, 32), (12, 5, 12, 16)


def white(*, frames: int = 5, height: int = 24, width: int = 32) -> np.ndarray:
    """A mask whose right half is white."""
    pixels = np.zeros((frames, height, width), np.uint8)
    pixels[:, :, width // 2 :] = 255
    return pixels


def picture(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return load_tiny()


@pytest.fixture(scope="module")
def original(runtime: Runtime) -> torch.Tensor:
    return runtime.generate(
        RED, frames=5, height=24, width=32, schedule=shifted(2, 5.0), policy="full", seed=3
    ).latents


@pytest.mark.parametrize(
    ("family", "size", "pixel", "token"),
    [
        ("hunyuan-video-1.0", (9, 32, 48), (0, 0, 0), (0, 0, 0)),
        ("hunyuan-video-1.0", (9, 32, 48), (1, 31, 47), (1, 1, 2)),
        ("hunyuan-video-1.0", (9, 32, 48), (4, 16, 15), (1, 1, 0)),
        ("hunyuan-video-1.5", (9, 32, 48), (5, 15, 16), (2, 0, 1)),
        ("hunyuan-video-1.5", (1, 32, 48), (0, 15, 16), (0, 0, 1)),
    ],
)
def test_one_white_pixel_is_one_token(
    family: str, size: tuple[int, ...], pixel: tuple[int, ...], token: tuple[int, ...]
) -> None:
    sizes = SIZES[family]
    latents = sizes.latent_shape(*size)[1:]
    patch = (1, 2, 2) if family.endswith("1.0") else (1, 1, 1)
    mask = torch.zeros(size, dtype=torch.bool)
    mask[pixel] = True
    chosen = token_mask(mask, size, latents, patch)
    assert chosen.grid == (latents[0], 2, 3)
    assert chosen.tensor().nonzero().tolist() == [[*token]]


def test_lost_frames_are_no_part_of_the_mask() -> None:
    """Four of 13 frames are lost: the mask has nine, and its first is of the second latent."""
    mask = torch.zeros(9, 16, 16, dtype=torch.bool)
    mask[0] = True
    chosen = token_mask(mask, (13, 16, 16), (4, 2, 2), (1, 2, 2), lost_frames=4)
    assert chosen.tensor().flatten().tolist() == [0, 1, 0, 0]


def test_a_mask_grows_in_height_and_width() -> None:
    mask = torch.zeros(24, 32, dtype=torch.bool)
    mask[8, 16] = True
    for grow, count in ((0, 1), (1, 9), (2, 25), (9, 48)):
        chosen = token_mask(mask, SIZE, LATENTS[1:], (1, 2, 2), grow=grow)
        assert chosen.count() == 5 * count, "in all frames"
        assert chosen.count(0, 48) == count


def test_masks_of_any_kind_are_the_same(tmp_path: Path) -> None:
    expected = torch.from_numpy(white() > 127)
    one = picture(tmp_path / "one.png", white()[0])
    assert torch.equal(read_mask(one), expected[:1])
    (tmp_path / "frames").mkdir()
    for i, frame in enumerate(white()):
        picture(tmp_path / "frames" / f"frame-{i:05d}.png", frame)
    assert torch.equal(read_mask(tmp_path / "frames"), expected)
    write_mp4(tmp_path / "mask.mp4", np.repeat(white()[..., None], 3, 3), 5)
    assert torch.equal(read_mask(tmp_path / "mask.mp4"), expected)
    chosen = token_mask(expected, SIZE, LATENTS[1:], (1, 2, 2))
    larger = expected.repeat_interleave(10, 1).repeat_interleave(10, 2)
    for same in (expected[:1], expected[0], larger):
        assert token_mask(same, SIZE, LATENTS[1:], (1, 2, 2)) == chosen


@pytest.mark.parametrize("scale", [None, 3.0])
@pytest.mark.parametrize("policy", ["edit", "full"])
def test_a_runtime_edits(
    runtime: Runtime, original: torch.Tensor, policy: str, scale: float | None
) -> None:
    sample = runtime.generate(
        BLUE,
        edit=original,
        mask=torch.from_numpy(white()[0]),
        mask_grow=0,
        policy=policy,
        schedule=shifted(2, 5.0),
        classifier_free_scale=scale,
    )
    assert torch.equal(sample.latents[..., :8], original[..., :8])
    assert not torch.isclose(sample.latents[..., 8:], original[..., 8:]).all(1).any()


def test_a_circle_becomes_blue(runtime: Runtime, original: torch.Tensor) -> None:
    """Red where it was red before: the shape stays in its place, and the colour is the prompt's."""
    made = runtime.generate(RED, size=SIZE, schedule=get_preset("disca-n4"), policy="full", seed=3)
    circle = made.video[0, 0] > 0.5
    sample = runtime.generate(
        BLUE,
        edit=made.latents,
        mask=circle,
        policy="edit",
        schedule=get_preset("disca-n4"),
        seed=3,
    )
    red, _, blue = (channel[circle].mean() for channel in sample.video[0])
    assert blue > 0.6 > 0.4 > red
    columns = circle.flatten(0, 1).any(0).nonzero()
    left = (int(columns.min()) // 4 - 1) * 4  # of the tokens of the grown mask
    assert left > 0
    assert torch.equal(sample.video[..., :left], made.video[..., :left])
    assert sample.times["edit steps"].count == 16


def test_the_page_s_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = PAGE.read_text().split("## A part of a video, made anew")[1]
    (example,) = re.findall(r"```sh\n(.*?)```", section.split("\n## ")[0], flags=re.DOTALL)
    first, second = map(shlex.split, example.splitlines())
    monkeypatch.chdir(tmp_path)
    assert main(first[1:]) == 0
    red = np.asarray(Image.open("red/frame-00002.png")).astype(int)
    picture(Path("mask.png"), np.where(red[..., 0] > 128, 255, 0).astype(np.uint8))
    assert main([*second[1:], "--latents-out=blue.safetensors"]) == 0
    assert "edit steps" in capsys.readouterr().out
    assert Path("blue.mp4").stat().st_size > 0
    before, after = (load_file(f"{name}.safetensors")["latents"] for name in ("red", "blue"))
    same = (before == after).all(1)[0, 0]
    assert 0.3 < same.float().mean() < 0.9


@pytest.mark.parametrize("name", ["hyvideo10", "hyvideo15"])
def test_both_models_edit_a_saved_conditioning(name: str, golden: Path, tmp_path: Path) -> None:
    """The file's noise settles the size; the mask is of that size in pixels, its right edge."""
    folder, out = golden / name, tmp_path / "out.safetensors"
    original = load_file(folder / "io.safetensors")["latents_restricted_meanflow"]
    save_file({"latents": original}, tmp_path / "latents.safetensors")
    side = 8 if name == "hyvideo10" else 16
    mask = np.zeros([side * each for each in original.shape[3:]], np.uint8)
    mask[:, -1] = 255
    picture(tmp_path / "mask.png", mask)
    flags = {
        "dit": folder / "dit.safetensors",
        "conditioning": folder / "io.safetensors",
        "edit": tmp_path / "latents.safetensors",
        "mask": tmp_path / "mask.png",
        "mask-grow": 0,
        "steps": 6,
        "latents-out": out,
        "dtype": "float32",
    }
    assert main(["generate", *(f"--{flag}={value}" for flag, value in flags.items())]) == 0
    latents, edge = load_file(out)["latents"], 2 if name == "hyvideo10" else 1
    assert torch.equal(latents[..., :-edge], original[..., :-edge])
    assert not torch.isclose(latents[..., -edge:], original[..., -edge:]).all(1).any()


@pytest.fixture
def bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`bad(*flags)`: why an edit of these is refused, in one line."""
    save_file({"latents": torch.zeros(1, *LATENTS)}, tmp_path / "latents.safetensors")
    save_file({"latents": torch.full((1, *LATENTS), torch.nan)}, tmp_path / "nan.safetensors")
    save_file({"latents": torch.zeros(1, 16, 5, 12, 16)}, tmp_path / "other.safetensors")
    save_file({"latents": torch.zeros(2, *LATENTS)}, tmp_path / "two.safetensors")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("white")
    (tmp_path / "text.png").write_text("white")
    picture(tmp_path / "mask.png", white()[0])
    picture(tmp_path / "black.png", 0 * white()[0])
    picture(tmp_path / "small.png", white(height=20)[0])
    (tmp_path / "three").mkdir()
    for i in range(3):
        picture(tmp_path / "three" / f"{i}.png", white()[0])
    (tmp_path / "mixed").mkdir()
    for i in range(2):
        picture(tmp_path / "mixed" / f"{i}.png", white(height=24 + i)[0])

    def refused(*flags: str) -> str:
        given = (re.sub(r"@", f"{tmp_path}/", flag) for flag in flags)
        out = tmp_path / "out.mp4"
        said = refusal(["generate", BLUE, f"--out={out}", *given], capsys)
        assert not out.exists()
        return said

    return refused


EDIT = "--edit=@latents.safetensors"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((EDIT,), "--edit goes with --mask FILE"),
        (("--mask=@mask.png",), "--mask goes with --edit LATENTS.safetensors"),
        (("--mask-grow=2",), "--mask-grow goes with --edit"),
        (("--policy=edit",), "policy edit goes with a video to edit and a mask"),
        ((EDIT, "--mask=@mask.png", "--mask-grow=-1"), "--mask-grow must be a number of tokens"),
        ((EDIT, "--mask=@none.png"), "none.png is neither a file nor a folder"),
        ((EDIT, "--mask=@empty"), "empty is a folder without pictures"),
        ((EDIT, "--mask=@text.mp4"), "text.mp4 is no picture and no video"),
        ((EDIT, "--mask=@text.png"), "text.png is no picture"),
        ((EDIT, "--mask=@black.png"), "mask marks nothing"),
        ((EDIT, "--mask=@small.png"), "32x24 pixels and of 1 or 5 frames, as the video, got 32x20"),
        ((EDIT, "--mask=@three"), "of 1 or 5 frames, as the video, got 32x24 and 3"),
        ((EDIT, "--mask=@mixed"), "mixed has frames of 32x24 and of 32x25"),
        ((EDIT, "--mask=@mask.png", "--size=32x24x9"), "edit must be latents of this model and"),
        (("--edit=@none.safetensors", "--mask=@mask.png"), "none.safetensors is not a file"),
        (("--edit=@mask.png", "--mask=@mask.png"), "mask.png"),
        (("--edit=@nan.safetensors", "--mask=@mask.png"), "not finite"),
        (("--edit=@other.safetensors", "--mask=@mask.png"), "[1, 12, 5, 12, 16], got [1, 16, 5"),
        (("--edit=@two.safetensors", "--mask=@mask.png"), "[1, 12, 5, 12, 16], got [2, 12, 5"),
    ],
)
def test_bad_edits_are_one_line(
    flags: tuple[str, ...], message: str, bad: Callable[..., str]
) -> None:
    assert message in bad(*flags)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mask": None}, "edit goes with mask"),
        ({"edit": None}, "mask goes with edit"),
        ({"edit": [1.0]}, "edit must be a tensor, got a list"),
        ({"edit": torch.zeros(12, 5, 12, 16)}, r"edit must be latents, floats \[B, C, T, H, W\]"),
        ({"edit": torch.zeros(1, *LATENTS, dtype=torch.long)}, "edit must be latents, floats"),
        ({"edit": torch.full((1, *LATENTS), torch.inf)}, "edit has values that are not finite"),
        ({"mask": 3}, "mask must be a tensor, or a file or folder, got a int"),
        ({"mask": torch.zeros(3)}, r"mask must be pixels \[F, H, W\] or \[H, W\], got \[3\]"),
        ({"mask_grow": -1}, "mask_grow must be a whole number at least 0, got -1"),
        ({"mask": TokenMask((1, 1, 1), b"\x01")}, r"mask must be of \(5, 6, 8\) tokens"),
        ({"mask": TokenMask((5, 6, 8), bytes(240))}, "some of them chosen, got 0 of"),
    ],
)
def test_bad_fields(fields: dict, message: str, runtime: Runtime) -> None:
    given = {"edit": torch.zeros(1, *LATENTS), "mask": torch.ones(24, 32)} | fields
    with pytest.raises(ValueError, match=message):
        runtime.run(Request(prompts=[RED], schedule=shifted(2, 5.0), policy="edit", **given))
