"""Pictures that videos begin with: every mode, turned and cut as the two other programs do."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from disca_rt.pipeline.images import cover, read_image, to_video


def gradient(width: int, height: int) -> Image.Image:
    """Picture whose every pixel is another colour."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x * 3, y * 3, x + y], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    suffix = ".tiff" if mode in ("CMYK", "YCbCr") else ".png"
    given = gradient(40, 30).convert(mode)
    given.save(tmp_path / f"a{suffix}")
    image = read_image(tmp_path / f"a{suffix}")
    assert (image.mode, image.size) == ("RGB", (40, 30))
    assert np.abs(np.asarray(image, int) - np.asarray(given.convert("RGB"), int)).max() <= 2


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    values = np.linspace(0, 65_535, 12 * 8).round().astype(np.uint16).reshape(8, 12)
    Image.fromarray(values).save(tmp_path / "deep.png")
    seen = np.asarray(read_image(tmp_path / "deep.png"))[..., 0]
    assert np.array_equal(seen, (values / 257).round())


def test_exif_turns_and_transparency_is_white(tmp_path: Path) -> None:
    lying = gradient(40, 30)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    lying.save(tmp_path / "turned.png", exif=exif)
    upright = read_image(tmp_path / "turned.png")
    assert np.array_equal(np.asarray(upright), np.rot90(np.asarray(lying), -1))
    clear = gradient(8, 8).convert("RGBA")
    clear.putalpha(0)
    assert np.asarray(read_image(clear)).min() == 255


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a file"),
        (b"not a picture", "is no picture; give a PNG, JPEG or WebP"),
        (b"", "is no picture"),
        ("cut", "is damaged"),
        ("float", "has floating-point values; save it as 8-bit RGB"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(
    tmp_path: Path, content: bytes | str | None, message: str
) -> None:
    path = tmp_path / "given.tiff"
    if content == "cut":
        gradient(64, 64).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    elif content == "float":
        Image.fromarray(np.ones((4, 4), np.float32)).save(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"image {path} {message}"):
        read_image(path)


@pytest.mark.parametrize("size", [(70, 50), (50, 70), (64, 48), (33, 200), (301, 301), (8, 5)])
@pytest.mark.parametrize("target", [(48, 64), (64, 48), (64, 64)])
def test_cut_as_diffusers_does_and_as_the_authors_do(
    size: tuple[int, int], target: tuple[int, int]
) -> None:
    processors = pytest.importorskip("diffusers.image_processor")
    image, (height, width) = gradient(*size), target
    theirs = processors.VaeImageProcessor(vae_scale_factor=16).resize(
        image, height=height, width=width, resize_mode="crop"
    )
    ours = cover(image, height, width, "diffusers")
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    official = cover(image, height, width)
    assert official.size == (width, height)
    factor = max(width / size[0], height / size[1])  # Tencent's 1.5, hyvideo/utils/data_utils.py
    w, h = round(size[0] * factor), round(size[1] * factor)
    box = ((w - width) / 2, (h - height) / 2, (w + width) / 2, (h + height) / 2)
    assert np.array_equal(
        np.asarray(official), np.asarray(image.resize((w, h), Image.LANCZOS).crop(box))
    )


@pytest.mark.parametrize("size", [(70, 50), (50, 70), (33, 200), (8, 5)])
def test_stretched_as_diffusers_does_for_1_0(size: tuple[int, int]) -> None:
    processors = pytest.importorskip("diffusers.image_processor")
    image = gradient(*size)
    theirs = processors.VaeImageProcessor(vae_scale_factor=8).preprocess(image, 48, 64)
    ours = to_video(cover(image, 48, 64, "stretch"))[:, :, 0]
    assert torch.allclose(ours * 2 - 1, theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "resized"), [((100, 70), (68, 48)), ((70, 100), None), ((301, 101), (143, 48))]
)
def test_short_sides_are_made_alike_as_the_authors_of_1_0_do(
    size: tuple[int, int], resized: tuple[int, int] | None
) -> None:
    """torchvision's Resize and CenterCrop; where that leaves gaps, as for 1.5."""
    image = gradient(*size)
    ours = np.asarray(cover(image, 48, 64, "short side"))
    if resized is None:
        assert np.array_equal(ours, np.asarray(cover(image, 48, 64)))
        return
    left = round((resized[0] - 64) / 2)
    box = left, 0, left + 64, 48
    expected = image.resize(resized, Image.Resampling.BILINEAR).crop(box)
    assert np.array_equal(ours, np.asarray(expected))


def test_a_picture_is_a_video_of_one_frame() -> None:
    image = gradient(6, 4)
    video = to_video(image)
    assert (tuple(video.shape), video.dtype) == ((1, 3, 1, 4, 6), torch.float32)
    assert torch.equal(
        (video[0, :, 0] * 255).round().byte(), torch.tensor(np.asarray(image)).permute(2, 0, 1)
    )
