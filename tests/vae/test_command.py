"""`disca-rt decode`: latents that were kept become the video that a decode gives."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import small_parts
from disca_rt.cli import main
from disca_rt.commands.decode import how_to_go_on
from disca_rt.family import VIDEO_10
from disca_rt.tiny.codec import PixelUnshuffleCodec
from disca_rt.vae.hunyuan import HunyuanCodec
from disca_rt.vae.stream import TileStream
from parallel.launch import forked, passes
from refusal import refusal


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model in diffusers' folders."""
    folder = tmp_path_factory.mktemp("model")
    small_parts.pipeline_10().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(2, 4, 3, 4, 6, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def kept(latents: Tensor, tmp_path: Path) -> Path:
    path = tmp_path / "kept.safetensors"
    save_file({"latents": latents}, path)
    return path


def frames_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 24
        return np.stack([each.to_ndarray(format="rgb24") for each in container.decode(video=0)])


@pytest.mark.parametrize("tiles", ["official", "32x24,8x4"])
def test_latents_become_videos(
    model: Path,
    kept: Path,
    latents: Tensor,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tiles: str,
) -> None:
    out, frames = tmp_path / "v.mp4", tmp_path / "frames"
    flags = ["--model", model, "--out", out, "--frames-out", frames, "--tiles", tiles]
    assert main(["decode", str(kept), *map(str, flags)]) == 0
    said = capsys.readouterr().out
    assert ("8 tiles of 32x24 px, 8x4 frames, about" in said) is (tiles != "official")
    assert said.count("wrote ") == 6
    video = HunyuanCodec(small_parts.vae_10(), VIDEO_10.name, tiles).decode(latents)
    expected = (video[1] * 255).round().byte().permute(1, 2, 3, 0).repeat_interleave(8, 1)
    expected = expected.repeat_interleave(8, 2).numpy()  # enlarged to be seen
    pngs = sorted((frames / "1").iterdir())
    assert len(pngs) == 9
    assert all((np.asarray(Image.open(p)) == e).all() for p, e in zip(pngs, expected, strict=True))
    shown = frames_of(tmp_path / "v-1.mp4")
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(float) - expected).mean() < 12  # chroma is halved
    assert (tmp_path / "v-0.png").is_file()


@pytest.mark.slow
def test_ranks_decode_the_same_frames(model: Path, kept: Path, tmp_path: Path) -> None:
    flags = ["decode", kept, "--model", model, "--tiles", "32x24,8x4", "--frames-out"]
    assert main([*map(str, flags), str(tmp_path / "one")]) == 0
    output = passes(forked(2, "-m", "disca_rt", *flags, tmp_path / "two"))
    assert output.count("wrote ") == 2
    one, two = (sorted((tmp_path / name).rglob("*.png")) for name in ("one", "two"))
    assert len(one) == 18
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]


def test_a_preview_needs_no_decode(
    model: Path,
    kept: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(HunyuanCodec, "stream", None)
    out = tmp_path / "v.mp4"
    assert main(["decode", str(kept), "--model", str(model), "--out", str(out), "--preview"]) == 0
    assert "preview: a linear map, R² " in capsys.readouterr().out
    assert frames_of(tmp_path / "v-0.mp4").shape == (9, 256, 384, 3)


def test_the_embedded_models_latents(tmp_path: Path) -> None:
    video = torch.rand(1, 3, 2, 120, 160)
    save_file({"latents": PixelUnshuffleCodec().encode(video)}, tmp_path / "l.safetensors")
    flags = [str(tmp_path / "l.safetensors"), "--frames-out", str(tmp_path / "f")]
    assert main(["decode", *flags]) == 0
    seen = np.asarray(Image.open(tmp_path / "f" / "frame-00001.png"))[::2, ::2]
    assert np.abs(seen / 255 - video[0, :, 1].permute(1, 2, 0).numpy()).max() < 0.51 / 255


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"text_states": torch.ones(1), "latents": torch.ones(1)}, "is a conditioning"),
        ({"x": torch.ones(1)}, "lacks latents; it has x"),
        ({"latents": torch.ones(4, 1, 2, 2)}, r"must be floats [B, C, T, H, W], got float32 [4,"),
        ({"latents": torch.ones(1, 4, 1, 2, 2).int()}, "got int32"),
        ({"latents": torch.full((1, 4, 1, 2, 2), torch.inf)}, "denoising are not finite, 16 of 16"),
        ({"latents": torch.ones(1, 16, 1, 2, 2)}, "16 channels, and the embedded model decodes 12"),
    ],
)
def test_files_without_latents_are_refused(
    tensors: dict[str, Tensor], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "l.safetensors"
    save_file(tensors, path)
    assert message in refusal(["decode", path, "--out", tmp_path / "v.mp4"], capsys)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "nothing to write: give --out VIDEO.mp4 or --frames-out FOLDER"),
        (["--out", "v.avi"], "--out must end in .mp4"),
        (["--out", "v.mp4", "--fps", "0"], "--fps must be from 1 to 240"),
        (["--out", "v.mp4", "--tiles", "big"], "tiles must be official"),
        (["--out", "v.mp4", "--vae-dtype", "int8"], "--vae-dtype must be one of"),
        (["--out", "v.mp4", "--timeout", "5"], "--timeout is for several ranks"),
        (["--frames-out", "."], "the folder of frames is not empty"),
    ],
)
def test_wrong_flags_are_refused(
    flags: list[str],
    message: str,
    model: Path,
    kept: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(kept.parent)
    assert message in refusal(["decode", kept.name, "--model", model, *flags], capsys)
    assert list(kept.parent.iterdir()) == [kept]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            KeyboardInterrupt(),
            "interrupted; nothing was written, and kept.safetensors is as it was",
        ),
        (
            RuntimeError("CUDA out of memory. x"),
            "kept.safetensors is as it was: try --tiles 128x96",
        ),
        (FloatingPointError("decode overflowed in float16"), "decode overflowed in float16"),
    ],
)
def test_a_decode_that_fails_leaves_the_latents_and_no_video(
    error: BaseException,
    message: str,
    model: Path,
    kept: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tile = TileStream._tile

    def failing(stream: TileStream, *place: object) -> Tensor:
        if stream.done == 5:
            raise error
        return tile(stream, *place)

    monkeypatch.setattr(TileStream, "_tile", failing)
    monkeypatch.chdir(kept.parent)
    flags = ["--model", model, "--out", "v.mp4", "--frames-out", "f", "--tiles", "32x24,8x4"]
    assert message in refusal(["decode", kept.name, *flags], capsys)
    assert list(kept.parent.iterdir()) == [kept]


def test_how_to_go_on_is_a_command() -> None:
    flags = {"--model": "my model", "--variant": None, "--fps": 12, "--out": Path("v.mp4")}
    told = how_to_go_on(Path("out/a b.safetensors"), flags)
    command = "disca-rt decode 'out/a b.safetensors' --model 'my model' --fps 12 --out v.mp4"
    assert told == f"the latents are kept in out/a b.safetensors; go on with: {command}"
