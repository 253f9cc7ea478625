"""The pixel-unshuffle codec: exact inverse, unit scale, and its own size rules."""

import pytest
import torch

from disca_rt.tiny.clips import render
from disca_rt.tiny.codec import PixelUnshuffleCodec
from disca_rt.tiny.prompts import sample_scene

CODEC = PixelUnshuffleCodec()


@pytest.mark.parametrize("shape", [(2, 3, 6, 24, 32), (1, 3, 1, 4, 4), (1, 3, 7, 8, 20)])
def test_decode_inverts_encode(shape: tuple[int, ...]) -> None:
    video = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    latents = CODEC.encode(video)
    assert latents.shape == (shape[0], *CODEC.latent_shape(*shape[2:]))
    assert latents.dtype == torch.float32
    assert (CODEC.decode(latents) - video).abs().max() < 2e-7  # 2 units in the last place of 1
    strided = video.transpose(3, 4).contiguous().transpose(3, 4)
    assert torch.equal(CODEC.encode(strided), latents)


def test_latent_channel_is_colour_then_row_then_column() -> None:
    video = torch.zeros(1, 3, 2, 4, 8)
    video[0, 1, 1, 3, 4] = 1.0  # green, second frame, odd row, even column
    latents = CODEC.encode(video)
    assert (latents == latents.max()).nonzero().tolist() == [[0, 1 * 4 + 1 * 2 + 0, 1, 1, 2]]


def test_latents_have_about_unit_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    scenes = [sample_scene(generator, held_out=False) for _ in range(200)]
    latents = CODEC.encode(render(scenes, generator))
    assert latents.mean().item() == pytest.approx(0.0, abs=0.1)
    assert latents.std().item() == pytest.approx(1.0, abs=0.1)


def test_decode_clamps_to_colours() -> None:
    noise = 10 * torch.randn(1, 12, 6, 12, 16, generator=torch.Generator().manual_seed(0))
    video = CODEC.decode(noise)
    assert video.shape == (1, 3, 6, 24, 32)
    assert video.min() == 0.0
    assert video.max() == 1.0
    assert CODEC.decode(noise.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((6, 23, 32), "height must be divisible by 4, got 23; nearest are 20 and 24"),
        ((6, 24, 34), "width must be divisible by 4, got 34; nearest are 32 and 36"),
        ((6, 0, 32), "height must be divisible by 4, got 0; nearest is 4"),
        ((6, 24, -4), "width must be divisible by 4, got -4; nearest is 4"),
        ((6, 24, 3), "width must be divisible by 4, got 3; nearest is 4"),
        ((0, 24, 32), "frames must be at least 1, got 0; nearest is 1"),
    ],
)
def test_illegal_sizes_name_the_nearest_legal_ones(size: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        CODEC.latent_shape(*size)


def test_encode_checks_the_size() -> None:
    with pytest.raises(ValueError, match="height must be divisible by 4, got 22"):
        CODEC.encode(torch.zeros(1, 3, 6, 22, 32))
