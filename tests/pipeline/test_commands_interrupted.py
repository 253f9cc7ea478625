"""What is left of `disca-rt generate` where it is interrupted, or the disk or the memory ends."""

import os
import resource
import shlex
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import av
import pytest

from disca_rt.cli import main
from disca_rt.commands import kept_latents
from disca_rt.errors import OneLineWarning
from disca_rt.pipeline.mp4 import Mp4Writer
from disca_rt.sampling.denoiser import Denoiser
from disca_rt.vae.stream import TileStream
from refusal import refusal

pytest.importorskip("diffusers")
import disca_rt.encoders.hunyuan_10 as encoder_10
import disca_rt.folders.load as folders_load
import disca_rt.pipeline.load as pipeline_load
import small_parts
from pipeline.whole_folders import generate

FLAGS = ("--size", "96x96x9", "--steps", "2", "--tiles", "64x48,8x4", "--fps", "12")
KEPT = "; the latents are kept in v.latents.safetensors; go on with: disca-rt decode "


class Stage(NamedTuple):
    """A function of a stage, at which of its calls it stops, and whether latents are there."""

    place: Any
    name: str
    is_it: Callable[..., bool] = lambda *arguments, **named: True
    is_sampled: bool = False


def loads(part: str) -> Callable[..., bool]:
    return lambda folder, name, *place: name == part


STAGES = {
    "loading encoders": Stage(folders_load, "load_part", loads("text_encoder_2")),
    "encoding": Stage(encoder_10, "token_states"),
    "loading the DiT": Stage(pipeline_load, "load_dit"),
    "denoising": Stage(Denoiser, "denoise"),
    "loading the VAE": Stage(folders_load, "load_part", loads("vae"), is_sampled=True),
    "decoding": Stage(TileStream, "_tile", lambda stream, *s: stream.done == 5, is_sampled=True),
    "writing": Stage(Mp4Writer, "write", is_sampled=True),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a model")
    small_parts.pipeline_10(guidance_embeds=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def frames(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The frames of a run that nothing stops."""
    root = tmp_path_factory.mktemp("video")
    assert (
        main(generate(folder, *FLAGS, f"--out={root / 'v.mp4'}", f"--frames-out={root / 'f'}")) == 0
    )
    assert sorted(each.name for each in root.iterdir()) == ["f", "v.mp4", "v.png"]
    return [path.read_bytes() for path in sorted((root / "f").iterdir())]


@pytest.fixture
def stopped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> Callable[..., str]:
    """`stopped(stage, act)`: the line of a run in which `act` is called in a stage."""
    monkeypatch.chdir(tmp_path)

    def run(stage: str, act: Callable[[], object], *flags: str) -> str:
        place, name, is_it, _ = STAGES[stage]
        usual = getattr(place, name)

        def stops(*arguments: object, **named: object) -> object:
            if is_it(*arguments, **named):
                act()
            return usual(*arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(place, name, stops)
            return refusal(generate(folder, *FLAGS, *(flags or ["--out=v.mp4"])), capsys)

    return run


def fail(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def send(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def goes_on(line: str, frames: list[bytes]) -> None:
    """Run the command at the end of a line: it makes the frames of a run that nothing stopped."""
    command = shlex.split(line.rpartition("go on with: disca-rt ")[2])
    assert main([*command, "--frames-out=f"]) == 0
    with av.open("v.mp4") as container:
        assert container.streams.video[0].average_rate == 12
        assert container.streams.video[0].frames == len(frames) == 9
    assert [path.read_bytes() for path in sorted(Path("f").iterdir())] == frames


@pytest.mark.parametrize(
    ("stage", "number"),
    [*((stage, signal.SIGINT) for stage in STAGES), ("decoding", signal.SIGTERM)],
)
def test_an_interrupted_run_loses_no_latents(
    stage: str,
    number: signal.Signals,
    stopped: Callable[..., str],
    frames: list[bytes],
    tmp_path: Path,
) -> None:
    line = stopped(stage, send(number))
    left = [path.name for path in tmp_path.iterdir()]
    if not STAGES[stage].is_sampled:
        assert (line, left) == ("interrupted; nothing was written", [])
        return
    assert line.startswith(f"interrupted{KEPT}")
    assert left == ["v.latents.safetensors"]
    if number == signal.SIGINT:
        goes_on(line, frames)


def test_latents_that_were_asked_for_are_the_ones_kept(
    stopped: Callable[..., str], frames: list[bytes], tmp_path: Path
) -> None:
    error = OSError(28, "No space left on device")
    line = stopped("writing", fail(error), "--out=v.mp4", "--latents-out=my l.safetensors")
    assert "No space left on device; the latents are kept in my l.safetensors; go on" in line
    assert [path.name for path in tmp_path.iterdir()] == ["my l.safetensors"]
    goes_on(line, frames)


def test_a_disk_that_is_full_amid_the_mp4(
    stopped: Callable[..., str], frames: list[bytes], tmp_path: Path
) -> None:
    """The largest file is limited, so that writing fails in libav itself."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = 20_000  # of an mp4 of 55 kB; the latents take 7
    try:
        line = stopped(
            "writing", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert line.startswith("cannot write v.mp4: File too large; the latents are kept in v.latents")
    assert [path.name for path in tmp_path.iterdir()] == ["v.latents.safetensors"]
    goes_on(line, frames)


def test_kept_latents_of_a_run_before_stay(
    stopped: Callable[..., str], folder: Path, tmp_path: Path
) -> None:
    stopped("decoding", send(signal.SIGINT))
    first = Path("v.latents.safetensors").read_bytes()
    line = stopped("decoding", send(signal.SIGINT), "--out=v.mp4", "--seed=1")
    assert "the latents are kept in v.latents-1.safetensors; go on" in line
    assert main(generate(folder, *FLAGS, "--out=v.mp4", "--seed=2")) == 0
    assert Path("v.latents.safetensors").read_bytes() == first
    names = {"v.latents.safetensors", "v.latents-1.safetensors", "v.mp4", "v.png"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_latents_that_cannot_lie_beside_the_video_are_kept_elsewhere(
    stopped: Callable[..., str],
    frames: list[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = tmp_path / "temporary"
    other.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(other))
    save = kept_latents.save_latents

    def full_here(path: Path, *content: object) -> None:
        if path.parent != other:
            raise OSError(f"cannot write {path}: No space left on device")
        save(path, *content)

    monkeypatch.setattr(kept_latents, "save_latents", full_here)
    with pytest.warns(OneLineWarning, match="cannot write v.latents.safetensors: No space"):
        line = stopped("decoding", send(signal.SIGINT))
    assert f"the latents are kept in {other}/v.latents.safetensors" in line
    goes_on(line, frames)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("loading encoders", "stage encode: CUDA out of memory. x; would help: --encoder-dtype bf"),
        ("encoding", "stage encode: CUDA out of memory. x; would help: --encoder-dtype bfloat16"),
        ("denoising", "needs about "),
        ("decoding", f"stage decode: CUDA out of memory. x{KEPT}"),
    ],
)
def test_memory_that_ends_is_told_by_stage(
    stage: str, message: str, stopped: Callable[..., str], tmp_path: Path
) -> None:
    line = stopped(stage, fail(RuntimeError("CUDA out of memory. x")))
    assert line.startswith(f"out of memory: {message}")
    assert (" --tiles 128x96,16x12 " in line) is (stage == "decoding")
    assert bool(list(tmp_path.iterdir())) is STAGES[stage].is_sampled


def test_another_error_in_the_decode_says_where_the_latents_are(
    stopped: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        stopped("decoding", fail(RuntimeError("a bug")))
    assert "the latents are kept in v.latents.safetensors; go on with" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["v.latents.safetensors"]
