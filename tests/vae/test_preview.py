"""The linear preview: exact where a codec is linear, the best linear map where it is not."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

import small_parts
from disca_rt.family import VIDEO_10
from disca_rt.tiny.codec import PixelUnshuffleCodec
from disca_rt.vae import preview
from disca_rt.vae.hunyuan import HunyuanCodec
from disca_rt.vae.preview import fit_preview


def test_the_embedded_codec_is_seen_exactly() -> None:
    codec = PixelUnshuffleCodec()
    look = fit_preview(codec)
    assert look.r_squared == pytest.approx(1, abs=1e-9)
    video = torch.rand(3, 5, 1, 1).expand(3, 5, 24, 32)  # plain colours, which averages keep
    seen = look(codec.encode(video[None])[0])
    assert seen.shape == video.shape
    assert (seen - video).abs().max() < 1e-5


@pytest.fixture(scope="module")
def codec() -> HunyuanCodec:
    return HunyuanCodec(small_parts.vae_10(), VIDEO_10.name)


def test_no_other_linear_map_is_nearer(
    codec: HunyuanCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Tensor, Tensor]] = []
    solve = preview._solve
    monkeypatch.setattr(preview, "_solve", lambda *pair: given.append(pair) or solve(*pair))
    look = fit_preview(codec)
    latents, colours = given[0]
    errors = latents @ look.weight.double() + look.bias.double() - colours
    assert latents.shape == ((preview.PICTURES - preview.HELD_OUT) * 2 * 64, 4)
    assert errors.mean(dim=0).abs().max() < 1e-6  # residuals are orthogonal to what is known
    assert (latents.T @ errors / len(errors)).abs().max() < 1e-6
    assert -1 < look.r_squared < 1
    assert torch.equal(fit_preview(codec).weight, look.weight)


def test_a_preview_is_as_large_as_the_decode(codec: HunyuanCodec) -> None:
    look, latents = fit_preview(codec), torch.randn(4, 3, 4, 6)
    seen = look(latents)
    assert seen.shape == codec.decode(latents[None])[0].shape == (3, 9, 32, 48)
    assert torch.equal(seen[:, 1], seen[:, 4])
    assert not torch.equal(seen[:, 0], seen[:, 1])
    inner = avg_pool3d(seen[None, :, :1], (1, 8, 8))[0]
    expected = torch.einsum("cthw,cr->rthw", latents[:, :1], look.weight) + look.bias.view(
        3, 1, 1, 1
    )
    assert (
        torch.corrcoef(torch.stack((inner.flatten(), expected.clamp(0, 1).flatten())))[0, 1] > 0.9
    )
    with pytest.raises(ValueError, match=r"latents must be \[4, T, H, W\], one sample"):
        look(latents[None])
