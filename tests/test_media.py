"""Files of a video that is written while it is decoded: read back, cut short, refused."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from disca_rt.pipeline import mp4
from disca_rt.pipeline.media import FrameFolder, SheetWriter, write_contact_sheet
from disca_rt.pipeline.mp4 import Mp4Writer
from disca_rt.pipeline.outputs import VideoFiles

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (12, 200, 77)]


def solid(*colours: tuple[int, int, int], height: int = 48, width: int = 64) -> np.ndarray:
    """One frame of each colour, uint8 [T, H, W, 3]."""
    return np.array(colours, np.uint8)[:, None, None].repeat(height, 1).repeat(width, 2)


def noise(count: int, side: int = 128) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes, as on a full disk but for the number of the error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_mp4_is_read_back_with_its_size_rate_colours_and_tags(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "v.mp4"
    with Mp4Writer(path, 48, 64) as video:
        video.write(solid(*COLOURS[:4]))
        video.write(solid(*COLOURS[4:]))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        tags = context.color_primaries, context.color_trc, context.colorspace, context.color_range
        decoded = list(container.decode(video=0))
    assert tags == (1, 1, 1, 1)
    assert (stream.average_rate, stream.width, stream.height) == (24, 64, 48)
    assert len(decoded) == len(COLOURS)
    for frame, colour in zip(decoded, COLOURS, strict=True):
        shown = frame.to_ndarray(format="rgb24")[24, 32].astype(int)
        assert np.abs(shown - colour).max() <= 2
    luma = [frame.to_ndarray()[24, 32] for frame in decoded[:3]]
    assert luma == [63, 173, 32]  # 16 + 219 · (0.2126, 0.7152, 0.0722); BT.601 has 81, 145, 41
    content = path.read_bytes()
    assert 0 < content.find(b"moov") < content.find(b"mdat")


@pytest.mark.parametrize("error", [KeyboardInterrupt, FloatingPointError])
def test_what_fails_within_leaves_the_old_files(tmp_path: Path, error: type) -> None:
    files = VideoFiles(tmp_path / "v.mp4", tmp_path / "new" / "frames")
    files.mp4.write_bytes(b"old")
    files.sheet.write_bytes(b"older")
    with pytest.raises(error), files.opened((5, 48, 64)) as write:
        write(torch.rand(3, 2, 48, 64))
        raise error
    assert files.mp4.read_bytes() == b"old"
    assert files.sheet.read_bytes() == b"older"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["v.mp4", "v.png"]


@pytest.mark.parametrize("room", [0, 1000, 60_000])
def test_a_full_disk_amid_an_mp4_is_one_line(tmp_path: Path, room: int) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"old")
    refused = pytest.raises(OSError, match=f"cannot write {path}: File too")
    with disk_of(room), refused as raised, Mp4Writer(path, 128, 128) as video:
        for _ in range(8):
            video.write(noise(5))
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["v.mp4"]


def test_a_full_disk_amid_pngs_leaves_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "frames"
    refused = pytest.raises(OSError, match=r"cannot write .*frame-00000.png: File too")
    with disk_of(1000), refused, FrameFolder(folder) as frames:
        frames.write(noise(2))
    assert not list(tmp_path.iterdir())


def test_a_missing_encoder_is_named_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mp4, "CODEC", "libnone")
    with pytest.raises(ValueError, match=r"no encoder libnone: .*--frames-out FOLDER"):
        Mp4Writer(tmp_path / "v.mp4", 48, 64)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [1, 2, 8, 9, 129])
@pytest.mark.parametrize("chunk", [1, 16])
def test_a_streamed_contact_sheet_is_that_of_all_frames(
    tmp_path: Path, count: int, chunk: int
) -> None:
    frames = noise(count, 8)
    with SheetWriter(tmp_path / "stream.png", count) as sheet:
        for start in range(0, count, chunk):
            sheet.write(frames[start : start + chunk])
            assert len(sheet._kept) <= 8
    write_contact_sheet(tmp_path / "all.png", frames)
    streamed, whole = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("stream", "all"))
    shown = min(count, 8)
    assert streamed.shape == (8, 8 * shown + 4 * (shown - 1), 3)
    assert (streamed == whole).all()
    assert (streamed[:, :8] == frames[0]).all()
    assert (streamed[:, -8:] == frames[-1]).all()


def test_frames_are_pngs_in_a_new_folder(tmp_path: Path) -> None:
    files, video = VideoFiles(frames=tmp_path / "frames"), torch.rand(3, 7, 240, 256)
    (tmp_path / "frames").mkdir()  # empty
    with files.opened((7, 240, 256)) as write:
        for chunk in video.split(3, dim=1):
            write(chunk)
    names = [each.name for each in sorted((tmp_path / "frames").iterdir())]
    assert names == [f"frame-{i:05d}.png" for i in range(7)]
    last = torch.from_numpy(np.array(Image.open(tmp_path / "frames" / names[6])))
    assert torch.equal(last, (video[:, 6] * 255).round().byte().permute(1, 2, 0))
    with pytest.raises(ValueError, match=r"not empty: .* has 7 entries"):
        FrameFolder(tmp_path / "frames")
