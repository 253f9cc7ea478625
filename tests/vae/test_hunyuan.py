"""The codec over diffusers' VAEs: equal to their own decode and encode, whole and in tiles."""

import diffusers
import pytest
import torch
from torch import Tensor, nn

import small_parts
from disca_rt.vae.hunyuan import HunyuanCodec
from disca_rt.vae.tiles import Steps, Tiling

FAMILIES = "hunyuan-video-1.0", "hunyuan-video-1.5"
SMALL_10 = Tiling(Steps(32, 24), Steps(8, 4))  # 4 latents of the side, 2 in time
SMALL_BLEND = Tiling(Steps(40, 24), Steps(8, 4))
SMALL_15 = Tiling(Steps(64, 48))


@pytest.fixture(scope="module")
def vaes() -> dict[str, nn.Module]:
    return dict(zip(FAMILIES, (small_parts.vae_10(), small_parts.vae_15()), strict=True))


def latents_of(vae: nn.Module, *size: int, seed: int = 0) -> Tensor:
    """Scaled latents [1, C, T, H, W] that do not reach the clamp too often."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, vae.config.latent_channels, *size, generator=generator) * 0.5


def theirs(vae: nn.Module, latents: Tensor) -> Tensor:
    """Their decode of scaled latents, as their pipelines call it."""
    decoded = vae.decode(latents / vae.config.scaling_factor).sample
    return (decoded.float() / 2 + 0.5).clamp(0, 1)


def tiled(vae: nn.Module, tiling: Tiling) -> nn.Module:
    """The module with its own tiling of the same grid."""
    side, time = tiling.side, tiling.time
    if isinstance(vae, diffusers.AutoencoderKLHunyuanVideo):
        vae.enable_tiling(
            tile_sample_min_height=side.tile,
            tile_sample_min_width=side.tile,
            tile_sample_min_num_frames=time.tile,
            tile_sample_stride_height=side.stride,
            tile_sample_stride_width=side.stride,
            tile_sample_stride_num_frames=time.stride,
        )
        return vae
    factor = vae.spatial_compression_ratio
    vae.enable_tiling(
        tile_sample_min_height=side.tile,
        tile_sample_min_width=side.tile,
        tile_latent_min_height=side.tile // factor,
        tile_latent_min_width=side.tile // factor,
        tile_overlap_factor=1 - side.stride / side.tile,
    )
    return vae


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_whole_decode_is_theirs_bitwise(
    vaes: dict[str, nn.Module], family: str, dtype: torch.dtype
) -> None:
    vae = type(vaes[family]).from_config(vaes[family].config).eval().to(dtype)
    vae.load_state_dict(vaes[family].state_dict())
    latents = latents_of(vae, 2, 2, 4) if dtype == torch.float16 else latents_of(vae, 3, 4, 6)
    codec = HunyuanCodec(vae, family)
    scaled = (latents / codec.scale).to(dtype)
    expected = (vae.decode(scaled).sample.float() / 2 + 0.5).clamp(0, 1)
    for tiling in ("official", "none"):
        assert torch.equal(HunyuanCodec(vae, family, tiling).decode(latents), expected)
    assert expected.std() > 0.1


@pytest.mark.parametrize(
    ("family", "tiling", "size"),
    [
        (FAMILIES[0], SMALL_10, (5, 8, 8)),  # seams in all three directions
        (FAMILIES[0], SMALL_BLEND, (4, 4, 10)),  # a last tile smaller than the blend
        (FAMILIES[0], SMALL_10, (3, 4, 10)),  # one row is enough, and two are made
        (FAMILIES[0], SMALL_10, (7, 2, 4)),  # time alone
        (FAMILIES[0], Tiling(Steps(32, 8), Steps(12, 4)), (5, 6, 4)),  # blends that overlap
        (FAMILIES[1], SMALL_15, (2, 6, 5)),
        (FAMILIES[1], SMALL_15, (1, 9, 4)),
    ],
)
def test_tiles_are_theirs(
    vaes: dict[str, nn.Module], family: str, tiling: Tiling, size: tuple[int, int, int]
) -> None:
    vae = tiled(vaes[family], tiling)
    latents = latents_of(vae, *size)
    codec = HunyuanCodec(vae, family, tiling)
    video, expected = codec.decode(latents), theirs(vae, latents)
    assert codec.grid(size).count > 1
    assert (video - expected).abs().max() <= 1e-6
    whole = HunyuanCodec(vae, family, "none").decode(latents)
    assert (video - whole).abs().max() > 1e-3, "tiles must be seen, or nothing was compared"
    chunks = list(codec.stream(latents[0]))
    assert torch.equal(torch.cat(chunks, dim=1), video[0])
    vae.use_tiling = size[0] > 1  # a picture is encoded whole
    encoded = vae.encode(expected * 2 - 1).latent_dist.mode() * vae.config.scaling_factor
    assert (codec.encode(expected) - encoded).abs().max() <= 1e-5 * encoded.abs().max()
