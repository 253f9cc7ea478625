"""The size rules of the big models' codecs."""

import pytest

from disca_rt.vae.sizes import SIZES


def test_the_papers_size() -> None:
    assert SIZES["hunyuan-video-1.0"].latent_shape(129, 704, 704) == (16, 33, 88, 88)
    assert SIZES["hunyuan-video-1.5"].latent_shape(121, 480, 848) == (32, 31, 30, 53)
    assert SIZES["hunyuan-video-1.0"].latent_shape(1, 16, 16) == (16, 1, 2, 2)


@pytest.mark.parametrize(
    ("frames", "height", "width", "message"),
    [
        (128, 704, 704, "frames must be 4n[+]1, got 128; nearest are 125 and 129"),
        (0, 704, 704, "frames must be 4n[+]1, got 0; nearest are 1 and 5"),
        (5, 700, 704, "height must be a multiple of 16, got 700; nearest are 688 and 704"),
        (5, 704, 8, "width must be a multiple of 16, got 8; nearest are 16 and 32"),
    ],
)
def test_illegal_sizes_name_the_nearest(frames: int, height: int, width: int, message: str) -> None:
    for sizes in SIZES.values():
        with pytest.raises(ValueError, match=message):
            sizes.latent_shape(frames, height, width)
