"""Grids, how they are written, and which fit in memory."""

import threading
from collections.abc import Callable

import diffusers
import pytest
import torch
from torch import nn

import small_parts
from disca_rt.family import VIDEO_10, VIDEO_15
from disca_rt.instruments.peak_memory import PeakMemory
from disca_rt.sampling.loop import Cancelled
from disca_rt.vae.budget import TileCost
from disca_rt.vae.hunyuan import HunyuanCodec
from disca_rt.vae.tiles import GIB, NAMED, Span, Steps, Tiling, make_grid, parse_tiling

V10, V15 = VIDEO_10.name, VIDEO_15.name
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def vae() -> nn.Module:
    return small_parts.vae_10()


@pytest.fixture(scope="module")
def real() -> dict[str, nn.Module]:
    """Both VAEs in their real sizes, in fp16, without values."""
    with torch.device("meta"):
        return {
            V10: diffusers.AutoencoderKLHunyuanVideo().half().eval(),
            V15: diffusers.AutoencoderKLHunyuanVideo15().half().eval(),
        }


@pytest.mark.parametrize(
    ("text", "tiling"),
    [
        ("official", Tiling(Steps(256, 192), Steps(64, 48))),
        ("diffusers", Tiling(Steps(256, 192), Steps(16, 12))),
        ("none", Tiling()),
        ("256x192", Tiling(Steps(256, 192))),
        ("256x192,64x48", Tiling(Steps(256, 192), Steps(64, 48))),
        ("none, 16x12", Tiling(None, Steps(16, 12))),
    ],
)
def test_tilings_are_read(text: str, tiling: Tiling) -> None:
    assert parse_tiling(text, V10) == tiling


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "tiles must be official, diffusers, none or TILExSTRIDE"),
        ("256", "tiles must be official"),
        ("256x192,64x48,1x1", "tiles must be official"),
        ("192x256", "at most the tile, got 192x256"),
        ("64x0", "above 0"),
    ],
)
def test_what_are_no_tiles_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_tiling(text, V10)


def test_tiles_that_are_no_whole_latents_are_refused(vae: nn.Module) -> None:
    with pytest.raises(ValueError, match="must be multiples of 8"):
        HunyuanCodec(vae, V10, "100x80").grid((3, 32, 32))
    with pytest.raises(ValueError, match=r"62x48 frames .* multiples of 4"):
        HunyuanCodec(vae, V10, "none,62x48").grid((33, 2, 2))


def test_the_official_grid_of_704x704x129_has_48_tiles() -> None:
    grid = make_grid(NAMED["official", V10], (33, 88, 88), 4, 8)
    assert grid.count == 48
    assert grid.time.spans == (Span(0, 17), Span(12, 29), Span(24, 33))
    assert grid.rows.spans[-1] == Span(72, 88)
    assert make_grid(NAMED["diffusers", V10], (33, 88, 88), 4, 8).count == 176


@pytest.mark.parametrize("frames", range(1, 60, 3))
def test_spans_in_time_cover_every_frame_once(frames: int) -> None:
    axis = make_grid(NAMED["official", V10], (frames, 8, 8), 4, 8).time
    given = [min(axis.stride, span.length - 1) for span in axis.spans[:-1]]
    assert sum(given) + axis.spans[-1].length == frames  # the first frame is the first tile's own
    assert all(span.length > 1 for span in axis.spans[1:])


@pytest.mark.parametrize(("family", "size"), [(V10, (3, 4, 6)), (V10, (5, 8, 8)), (V15, (2, 3, 2))])
def test_bytes_of_a_tile_are_those_that_its_decode_takes(
    family: str, size: tuple[int, int, int]
) -> None:
    vae = small_parts.vae_10() if family == V10 else small_parts.vae_15()
    with PeakMemory(CPU) as peak:
        HunyuanCodec(vae, family).decode_tile(torch.randn(4, *size))
    assert TileCost(vae, family).counted(size) == pytest.approx(peak.peak, rel=0.02)


def test_memory_of_a_stream_does_not_grow_with_the_clip(vae: nn.Module) -> None:
    codec = HunyuanCodec(vae, V10, "32x24,8x4")
    peaks, plans = [], []
    for frames in (5, 9, 25):
        latents = torch.randn(4, frames, 6, 6)
        with PeakMemory(CPU) as peak:
            for chunk in codec.stream(latents):
                del chunk
        peaks.append(peak.peak)
        plans.append(codec.plan((frames, 6, 6)).size)
    assert max(peaks) < 1.01 * min(peaks)
    assert len(set(plans)) == 1
    assert max(peaks) < plans[0] < 2 * max(peaks)


@pytest.mark.parametrize(
    ("family", "free", "tiling"),
    [
        (V10, 80 * GIB, "256x192 px, 64x48 frames"),
        (V10, 12 * GIB, "256x192 px, 32x24 frames"),
        (V10, 3 * GIB, "128x96 px, 32x24 frames"),
        (V15, 80 * GIB, "256x224 px, all frames"),
        (V15, 21 * GIB, "128x96 px, all frames"),  # it would fit, and the authors pass it over
        (V15, 3 * GIB, "64x48 px, all frames"),
    ],
)
def test_tiles_of_the_real_sizes_fit_the_memory(
    real: dict[str, nn.Module], family: str, free: int, tiling: str
) -> None:
    size = (33, 90, 160) if family == V10 else (31, 45, 80)
    plan = HunyuanCodec(real[family], family, free=lambda: free).plan(size)
    assert str(plan.tiling) == tiling
    assert plan.size <= free
    is_official = plan.tiling == NAMED["official", family]
    assert ("the official" in plan.line) is not is_official
    with pytest.raises(MemoryError, match=r"does not fit in 100\.0 MB"):
        HunyuanCodec(real[family], family, free=lambda: 100_000_000).plan(size)
    with pytest.raises(MemoryError, match="--tiles official takes smaller ones"):
        HunyuanCodec(real[family], family, "diffusers", free=lambda: GIB).plan(size)


def test_what_was_chosen_is_told_once(vae: nn.Module) -> None:
    told: list[str] = []
    codec = HunyuanCodec(vae, V10, free=lambda: 10**9, tell=told.append)
    codec.decode(torch.randn(2, 4, 1, 2, 2))
    assert len(told) == 1
    assert told[0].startswith("one tile, about ")


def test_a_decode_is_cancelled_between_tiles(vae: nn.Module) -> None:
    cancel, seen = threading.Event(), []

    def on_tile(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 3:
            cancel.set()

    codec = HunyuanCodec(vae, V10, "32x24,8x4")
    with pytest.raises(Cancelled, match="cancelled after tile 3 of 12 of the decode"):
        list(codec.stream(torch.randn(4, 4, 6, 6), on_tile=on_tile, cancel=cancel))
    assert seen == [(1, 12), (2, 12), (3, 12)]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda z: z.new_full(z.shape, float("nan")), "from denoising are not finite, 16 of 16"),
        (lambda z: z[:3], r"latents must be \[4, T, H, W\] for this VAE, got \[3, 1, 2, 2\]"),
        (lambda z: z[None], r"got \[1, 4, 1, 2, 2\]"),
    ],
)
def test_latents_that_cannot_be_decoded_are_named(
    vae: nn.Module, spoil: Callable, message: str
) -> None:
    with pytest.raises((ValueError, FloatingPointError), match=message):
        HunyuanCodec(vae, V10).stream(spoil(torch.randn(4, 1, 2, 2)))


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (torch.float16, "decode overflowed in float16; try --vae-dtype bfloat16 or float32"),
        (torch.bfloat16, "not finite in bfloat16; try --vae-dtype float32"),
        (torch.float32, "not finite in float32; are its weights whole"),
    ],
)
def test_an_overflow_is_named(dtype: torch.dtype, message: str) -> None:
    vae = small_parts.vae_10()
    vae.decoder.conv_out.conv.bias[1] = float("inf")
    with pytest.raises(FloatingPointError, match=message):
        HunyuanCodec(vae.to(dtype), V10).decode(torch.randn(1, 4, 1, 2, 2))


def test_shift_and_scale_are_the_modules_own() -> None:
    vae = small_parts.vae_10()
    plain = HunyuanCodec(vae, V10)
    latents = torch.randn(1, 4, 1, 2, 2)
    vae.register_to_config(shift_factor=0.25, scaling_factor=2.0)
    shifted = HunyuanCodec(vae, V10)
    video = shifted.decode((latents - 0.25) * 2)
    assert torch.allclose(video, plain.decode(latents * plain.scale), atol=1e-6)
    video = torch.rand(1, 3, 1, 16, 16)
    expected = (plain.encode(video) / plain.scale - 0.25) * 2
    assert torch.allclose(shifted.encode(video), expected, atol=1e-6)
