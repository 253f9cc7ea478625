"""`disca-rt inspect` of folders: what is there, what is missing, what it is sampled with."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disca_rt.cli import main
from folder_writers import write_diffusers, write_official_15
from golden_vectors import load_golden
from refusal import refusal

Written = Callable[[str, str], Path]
Said = Callable[..., str]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Said:
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> str:
        assert main(["inspect", *map(str, arguments)]) == 0
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("layout", ["diffusers", "official", "comfyui"])
@pytest.mark.parametrize(
    ("model", "parts"),
    [
        (
            "1.0",
            ["HunyuanVideo 1.0, text-to-video", "text_encoder_2", "1280x720x129", "images: no"],
        ),
        ("1.5 images", ["HunyuanVideo 1.5, image-to-video", "image_encoder", "480p_i2v", "6.0"]),
    ],
)
def test_what_a_folder_is(
    written: Written, said: Said, model: str, layout: str, parts: list[str]
) -> None:
    text = said(written(model, layout))
    for part in (*parts, "prompts: yes", "video: yes"):
        assert part in text, part
    assert "DisCa: no, without predictor" in text
    assert "double-stream" in text  # the DiT by its tensors, as of a file alone


def test_what_is_missing(pipeline: Callable[[str], Any], tmp_path: Path, said: Said) -> None:
    root = write_diffusers(pipeline("1.5 images"), tmp_path)
    shutil.rmtree(root / "image_encoder")
    shutil.rmtree(root / "text_encoder")
    text = said(root)
    assert "prompts: no, without text_encoder" in text
    assert "images: no, without image_encoder" in text
    assert f"put it at {root}/image_encoder" in text


def test_one_of_several_variants(
    pipeline: Callable[[str], Any],
    tmp_path: Path,
    said: Said,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = write_official_15(pipeline("1.5"), tmp_path, ("480p_t2v", "720p_t2v"))
    assert "480p_t2v, 720p_t2v" in refusal(["inspect", root], capsys)
    assert "transformer/720p_t2v" in said(root, "--variant", "720p_t2v")
    file = root / "transformer" / "480p_t2v" / "diffusion_pytorch_model.safetensors"
    assert "goes with a folder" in refusal(["inspect", file, "--variant", "x"], capsys)


def test_files_and_their_folders_as_before(said: Said) -> None:
    golden = load_golden("hyvideo10")
    assert "the predictor fits the DiT" in said(golden.dit, golden.predictor)
