"""diffusers' own classes, fresh random weights: saved by them, loaded by us, equal to 1e-5."""

from pathlib import Path

import pytest
import torch

from disca_rt.conditioning import Conditioning
from disca_rt.models.dit import StepInputs
from disca_rt.weights.inspect import inspect_checkpoint
from disca_rt.weights.load import load_dit
from golden_vectors import relative_error

pytest.importorskip("diffusers")

TOLERANCE = 1e-5
SIZES = {
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "num_layers": 2,
    "rope_axes_dim": (8, 12, 12),
}


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Every weight far from its initial value, so that none can be swapped unnoticed."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        scale = 0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        parameter.data = noise * scale + ("norm" in name and parameter.ndim == 1)
    return model.eval().requires_grad_(False)


def mask_of(lengths: list[int], longest: int) -> torch.Tensor:
    return (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()


def inputs(seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator)


@pytest.fixture(
    scope="module",
    params=[(True, 4), (False, 4), (True, 9)],
    ids=["guidance", "base", "image to video"],
)
def video_10(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    from diffusers import HunyuanVideoTransformer3DModel

    model = HunyuanVideoTransformer3DModel(
        in_channels=request.param[1],
        out_channels=4,
        image_condition_type="latent_concat" if request.param[1] > 4 else None,
        num_single_layers=2,
        text_embed_dim=40,
        pooled_projection_dim=24,
        guidance_embeds=request.param[0],
        **SIZES,
    )
    folder = tmp_path_factory.mktemp("video_10")
    randomised(model).save_pretrained(folder)
    return model, folder


@pytest.mark.parametrize("lengths", [[5], [7], [3, 7]], ids=["1 padded", "1 whole", "2 unequal"])
def test_hunyuan_video(video_10: tuple[torch.nn.Module, Path], lengths: list[int]) -> None:
    model, folder = video_10
    random, batch = inputs(), len(lengths)
    latents, states = random(batch, 4, 2, 4, 6), random(batch, 7, 40)
    pooled, mask = random(batch, 24), mask_of(lengths, 7)
    timestep, guidance = torch.tensor([900.0, 321.0])[:batch], torch.full((batch,), 6000.0)
    guidance = guidance if model.config.guidance_embeds else None
    condition = random(batch, model.config.in_channels - 4, 2, 4, 6)
    given = torch.cat([latents, condition], dim=1)
    expected = model(given, timestep, states, mask, pooled, guidance, return_dict=False)[0]

    dit = load_dit(folder)
    condition = condition if condition.shape[1] else None
    conditioning = Conditioning(states, mask, pooled, cond_latents=condition)
    prepared = dit.prepare(conditioning, latents.shape)
    velocity = dit(latents, StepInputs(timestep, None, guidance), prepared)
    assert relative_error(velocity, expected) <= TOLERANCE


@pytest.fixture(scope="module", params=[True, False], ids=["meanflow", "base"])
def video_15(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    from diffusers import HunyuanVideo15Transformer3DModel

    model = HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        text_embed_dim=40,
        text_embed_2_dim=24,
        image_embed_dim=20,
        use_meanflow=request.param,
        **SIZES,
    )
    folder = tmp_path_factory.mktemp("video_15")
    randomised(model).save_pretrained(folder, max_shard_size="8MB")
    return model, folder


@pytest.mark.parametrize("task", ["i2v", "t2v"])
@pytest.mark.parametrize("lengths", [[5], [3, 7]], ids=["batch 1", "batch 2 unequal"])
def test_hunyuan_video_15(
    video_15: tuple[torch.nn.Module, Path], lengths: list[int], task: str
) -> None:
    model, folder = video_15
    random, batch = inputs(), len(lengths)
    latents, cond = random(batch, 4, 2, 4, 5), random(batch, 5, 2, 4, 5)
    states, mask = random(batch, 7, 40), mask_of(lengths, 7)
    glyphs, glyph_mask = random(batch, 6, 24), mask_of([2, 5][:batch], 6)
    vision = random(batch, 3, 20) if task == "i2v" else torch.zeros(batch, 3, 20)
    timestep = torch.tensor([900.0, 321.0])[:batch]
    timestep_r = timestep / 2 if model.config.use_meanflow else None
    expected = model(
        torch.cat([latents, cond], dim=1),
        timestep,
        states,
        mask,
        timestep_r=timestep_r,
        encoder_hidden_states_2=glyphs,
        encoder_attention_mask_2=glyph_mask,
        image_embeds=vision,
        return_dict=False,
    )[0]

    dit = load_dit(folder)
    conditioning = Conditioning(states, mask, None, glyphs, glyph_mask, vision, cond)
    prepared = dit.prepare(conditioning, latents.shape)
    velocity = dit(latents, StepInputs(timestep, timestep_r, None), prepared)
    assert relative_error(velocity, expected) <= TOLERANCE


def test_inspect_reads_diffusers_files(
    video_10: tuple[torch.nn.Module, Path], video_15: tuple[torch.nn.Module, Path]
) -> None:
    for (model, folder), family in ((video_10, "1.0"), (video_15, "1.5")):
        info = inspect_checkpoint(folder)
        assert (info.layout, info.kind) == ("diffusers", "dit")
        assert info.family == f"hunyuan-video-{family}"
        assert info.parameters == sum(p.numel() for p in model.parameters())
        assert info.config.rope == (8, 12, 12)
