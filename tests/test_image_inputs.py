"""Every published input of the DiT, against diffusers' models and pipelines on the same weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from disca_rt.conditioning import Conditioning
from disca_rt.config import DiTConfig
from disca_rt.kernels.ops import get_ops
from disca_rt.measure.diffusers_models import diffusers_step
from disca_rt.models.dit import DiT, StepInputs
from disca_rt.models.stream import PendingSum, materialise
from disca_rt.pipeline.runtime import Runtime
from disca_rt.schedule import Schedule, from_timesteps, shifted
from disca_rt.weights.load import load_dit
from disca_rt.weights.save import save_safetensors
from golden_vectors import relative_error

diffusers = pytest.importorskip("diffusers")
small = pytest.importorskip("small_parts")

INTERPRETED = pytest.mark.skipif(torch.cuda.is_available(), reason="these tensors are on the CPU")
TOLERANCE = 1e-5
CHANNELS, FRAMES, SIDE = small.LATENT_CHANNELS, 3, 4  # of latents
PIXELS = {"height": 8 * SIDE, "width": 8 * SIDE, "num_frames": 4 * FRAMES - 3}
CONDITIONS: dict[str, dict[str, Any]] = {
    "text": {},
    "image alone": {"in_channels": 2 * CHANNELS},
    "image and mask": {"in_channels": 2 * CHANNELS + 1, "image_condition_type": "latent_concat"},
    "clean first frame": {"image_condition_type": "token_replace"},
}


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Given(NamedTuple):
    """Encoded prompts, as diffusers' pipelines take them; the second text is shorter."""

    prompt_embeds: Tensor
    prompt_attention_mask: Tensor
    pooled_prompt_embeds: Tensor

    @property
    def conditioning(self) -> Conditioning:
        return Conditioning(*self)

    def named(self, prefix: str = "") -> dict[str, Tensor]:
        return {prefix + name: tensor for name, tensor in self._asdict().items()}


def given(seed: int, batch: int = 1) -> Given:
    mask = torch.ones(batch, 7).long()
    mask[1:, 4:] = 0
    states = random(seed, batch, 7, small.TEXT_WIDTH)
    return Given(states, mask, random(seed + 1, batch, small.POOLED_WIDTH))


def picture() -> Image.Image:
    pixels = torch.rand(8 * SIDE, 8 * SIDE, 3, generator=torch.Generator().manual_seed(3))
    return Image.fromarray((255 * pixels).byte().numpy())


def image_latents(vae: nn.Module) -> Tensor:
    """The picture `[1, C, 1, H, W]` as pipelines scale it."""
    pixels = torch.from_numpy(np.array(picture())).permute(2, 0, 1)[None, :, None] / 127.5 - 1
    return vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor


def with_image(conditioning: Conditioning, config: DiTConfig, first: Tensor) -> Conditioning:
    """The image where the model takes it; a mask beside it has 1 in the first frame."""
    if not config.condition_channels:
        return replace(conditioning, first_frame_latents=first)
    both = torch.cat([first, torch.ones_like(first[:, :1])], dim=1)
    masked = both[:, : config.condition_channels]
    after = masked.new_zeros(len(first), masked.shape[1], FRAMES - 1, SIDE, SIDE)
    return replace(conditioning, cond_latents=torch.cat([masked, after], dim=2))


def in_layout(layout: str, model: nn.Module, folder: Path) -> Path:
    """The weights of `model` as diffusers saves them, or by the authors' names."""
    model.save_pretrained(folder)
    if layout == "diffusers":
        return folder
    dit = load_dit(folder)
    (folder / "official").mkdir()
    path = folder / "official" / "dit.safetensors"
    save_safetensors(path, dit.state_dict(), torch.float32, dit.config)
    return path


@pytest.fixture(scope="module", params=CONDITIONS)
def theirs(request: pytest.FixtureRequest) -> nn.Module:
    return small.transformer_10(**CONDITIONS[request.param])


@pytest.mark.parametrize(
    ("layout", "ops", "batch"),
    [
        ("diffusers", "reference", 1),
        ("official", "reference", 2),
        pytest.param("diffusers", "triton", 2, marks=INTERPRETED),
    ],
)
def test_a_forward_is_diffusers(
    theirs: nn.Module, layout: str, ops: str, batch: int, tmp_path: Path
) -> None:
    dit = load_dit(in_layout(layout, theirs, tmp_path), ops=get_ops(ops, "cpu"))
    assert dit.config.token_replace == (theirs.config.image_condition_type == "token_replace")
    latents, texts = random(1, batch, CHANNELS, FRAMES, SIDE, SIDE), given(2, batch)
    conditioning, shown = texts.conditioning, latents
    if dit.config.condition_channels:
        condition = random(4, batch, dit.config.condition_channels, FRAMES, SIDE, SIDE)
        conditioning = replace(conditioning, cond_latents=condition)
        shown = torch.cat([latents, condition], dim=1)
    if dit.config.token_replace:
        first = random(4, batch, CHANNELS, 1, SIDE, SIDE)
        conditioning = replace(conditioning, first_frame_latents=first)
        shown = torch.cat([first, latents[:, :, 1:]], dim=2)
    t, guidance = torch.tensor([900.0, 321.0])[:batch], torch.full((batch,), 6000.0)
    expected = theirs(shown, t, *texts, guidance=guidance, return_dict=False)[0]
    step = StepInputs(t, None, guidance)
    velocity = dit(latents, step, dit.prepare(conditioning, latents.shape))
    assert relative_error(velocity, expected) <= TOLERANCE
    assert torch.equal(diffusers_step(theirs, conditioning)(latents, step), expected)


class Sides(NamedTuple):
    """A pipeline of diffusers, and a runtime of the same weights."""

    pipeline: Any
    runtime: Runtime

    def sample(
        self,
        conditioning: Conditioning,
        noise: Tensor,
        schedule: Schedule,
        negative: Conditioning | None = None,
        **scales: float,
    ) -> Tensor:
        fields = {"schedule": schedule, "policy": "full", "latents": noise}
        return self.runtime.sample(conditioning, negative=negative, **fields, **scales).latents


def sides(pipeline: Any, folder: Path) -> Sides:
    pipeline.set_progress_bar_config(disable=True)
    pipeline.transformer.save_pretrained(folder)
    return Sides(pipeline, Runtime.load(folder, dtype=torch.float32))


def without_encoders(kind: type, shift: float, folder: Path, **changed: Any) -> Sides:
    """A pipeline of 1.0 that is given encoded prompts."""
    names = "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"
    parts = dict.fromkeys((*names, *["image_processor"] * ("ImageTo" in kind.__name__)))
    if "Skyreels" in kind.__name__:
        parts.pop("image_processor")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    models = {"transformer": small.transformer_10(**changed), "vae": small.vae_10()}
    return sides(kind(**parts, **models, scheduler=scheduler), folder)


@pytest.mark.parametrize("guided", [False, True], ids=["embedded", "both guidances"])
@pytest.mark.parametrize("condition", ["image and mask", "clean first frame"])
def test_image_to_video_of_1_0_is_diffusers(condition: str, guided: bool, tmp_path: Path) -> None:
    kind = diffusers.HunyuanVideoImageToVideoPipeline
    both = without_encoders(kind, 7.0, tmp_path, **CONDITIONS[condition])
    noise, texts, others = random(5, 1, CHANNELS, FRAMES, SIDE, SIDE), given(6), given(8)
    scales = {"true_cfg_scale": 3.0, **others.named("negative_")} if guided else {}
    expected = both.pipeline(
        picture(), **PIXELS, **texts.named(), **scales, guidance_scale=6.0, latents=noise,
        num_inference_steps=4, output_type="latent",
    ).frames  # fmt: skip
    first = image_latents(both.pipeline.vae)
    positive, negative = (
        with_image(each.conditioning, both.runtime.config, first) for each in (texts, others)
    )
    mixed = positive.mixed_into(noise, 0.001)
    scales = {"negative": negative, "classifier_free_scale": 3.0} if guided else {}
    latents = both.sample(positive, mixed, shifted(4, 7.0), guidance_scale=6.0, **scales)
    if condition == "clean first frame":
        assert torch.equal(latents[:, :, :1], first)
        assert relative_error(latents, expected) <= TOLERANCE
    else:  # their pipeline leaves the first latent out
        assert relative_error(latents[:, :, 1:], expected) <= TOLERANCE


def test_skyreels_mixes_two_passes_beside_an_embedded_scale(tmp_path: Path) -> None:
    kind = diffusers.HunyuanSkyreelsImageToVideoPipeline
    both = without_encoders(kind, 7.0, tmp_path, **CONDITIONS["image alone"])
    noise, texts, others = random(5, 1, CHANNELS, FRAMES, SIDE, SIDE), given(6), given(8)
    first, shown = random(9, 1, CHANNELS, 1, SIDE, SIDE), []

    class Encoded:  # of the VAE; theirs draws a sample of it
        latents = first / both.pipeline.vae_scaling_factor

    with patch.object(both.pipeline.vae, "encode", lambda pixels: shown.append(pixels) or Encoded):
        expected = both.pipeline(
            picture(), **PIXELS, **texts.named(), **others.named("negative_"), latents=noise,
            true_cfg_scale=6.0, guidance_scale=1.0, num_inference_steps=4, output_type="latent",
        ).frames  # fmt: skip
    assert len(shown) == 1
    positive, negative = (
        with_image(each.conditioning, both.runtime.config, first) for each in (texts, others)
    )
    scales = {"guidance_scale": 1.0, "classifier_free_scale": 6.0}
    latents = both.sample(positive, noise, shifted(4, 7.0), negative, **scales)
    assert relative_error(latents, expected) <= TOLERANCE


def test_fast_hunyuan_is_a_model_of_1_0_in_six_steps(tmp_path: Path) -> None:
    both = without_encoders(diffusers.HunyuanVideoPipeline, 17.0, tmp_path)
    noise, texts = random(5, 1, CHANNELS, FRAMES, SIDE, SIDE), given(6)
    expected = both.pipeline(
        **PIXELS, **texts.named(), latents=noise, guidance_scale=6.0, num_inference_steps=6,
        output_type="latent",
    ).frames  # fmt: skip
    latents = both.sample(texts.conditioning, noise, shifted(6, 17.0), guidance_scale=6.0)
    assert relative_error(latents, expected) <= TOLERANCE


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[dict[str, Tensor]]]:
    """The arguments of each forward of `model`."""
    calls: list[dict[str, Tensor]] = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(dict(kwargs)), with_kwargs=True
    )
    try:
        yield calls
    finally:
        hook.remove()


def conditioning_15(call: dict[str, Tensor]) -> Conditioning:
    """The conditioning that diffusers' model of 1.5 was called with."""
    return Conditioning(
        text_states=call["encoder_hidden_states"],
        text_mask=call["encoder_attention_mask"],
        byt5_text_states=call["encoder_hidden_states_2"],
        byt5_text_mask=call["encoder_attention_mask_2"],
        vision_states=call["image_embeds"],
        cond_latents=call["hidden_states"][:, CHANNELS:],
    )


@pytest.mark.parametrize("steps", [1, 4])
def test_meanflow_of_1_5_is_diffusers(steps: int, tmp_path: Path) -> None:
    """r is the next step's t, and 0 in the last step."""
    pipeline = small.pipeline_15_image(use_meanflow=True)
    pipeline.guider = type(pipeline.guider)(guidance_scale=1.0)
    both = sides(pipeline, tmp_path)
    with recorded(pipeline.transformer) as calls:
        expected = pipeline(
            picture(), 'A sign that says "Tea"', num_frames=PIXELS["num_frames"],
            num_inference_steps=steps, generator=torch.Generator().manual_seed(0),
            output_type="latent",
        ).frames  # fmt: skip
    assert len(calls) == steps
    conditioning, noise = conditioning_15(calls[0]), calls[0]["hidden_states"][:, :CHANNELS]
    assert conditioning.cond_latents[:, -1, 0].eq(1).all(), "the mask of the first frame"
    latents = both.sample(conditioning, noise, shifted(steps, small.SHIFT_15))
    assert relative_error(latents, expected) <= TOLERANCE


def test_timesteps_of_a_step_distilled_1_5_are_followed(tmp_path: Path) -> None:
    model = small.transformer_15()
    model.save_pretrained(tmp_path)
    noise = random(5, 1, CHANNELS, FRAMES, SIDE, SIDE)
    call = {
        "encoder_hidden_states": random(1, 1, 7, small.TEXT_WIDTH),
        "encoder_attention_mask": torch.ones(1, 7).long(),
        "encoder_hidden_states_2": random(2, 1, 5, small.GLYPH_WIDTH),
        "encoder_attention_mask_2": torch.ones(1, 5).long(),
        "image_embeds": torch.zeros(1, 4, small.IMAGE_WIDTH),
    }
    blank = noise.new_zeros(1, CHANNELS + 1, FRAMES, SIDE, SIDE)
    expected, timesteps = noise, [1000.0, 750.0, 500.0, 250.0]
    for t, after in zip(timesteps, [*timesteps[1:], 0.0], strict=True):
        shown = torch.cat([expected, blank], dim=1)
        velocity = model(shown, timestep=torch.tensor([t]), **call, return_dict=False)[0]
        expected = expected + velocity * (after - t) / 1000
    both = Sides(None, Runtime.load(tmp_path, dtype=torch.float32))
    conditioning = conditioning_15(call | {"hidden_states": torch.cat([noise, blank], dim=1)})
    latents = both.sample(conditioning, noise, from_timesteps(timesteps))
    assert relative_error(latents, expected) <= TOLERANCE


@pytest.fixture(scope="module")
def replacing(tmp_path_factory: pytest.TempPathFactory) -> DiT:
    folder = tmp_path_factory.mktemp("replacing")
    small.transformer_10(**CONDITIONS["clean first frame"]).save_pretrained(folder)
    return load_dit(folder)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"first_frame_latents": None}, "lacks first_frame_latents"),
        ({"first_frame_latents": torch.zeros(1, 4, 2, 4, 4)}, r"must be \[1, 4, 1, 4, 4\]"),
        ({"first_frame_latents": torch.zeros(1, 4, 1, 4, 6)}, "as large as the latents"),
        ({"cond_latents": torch.zeros(1, 4, 3, 4, 4)}, "does not take"),
    ],
)
def test_a_first_frame_that_does_not_fit_is_refused(
    replacing: DiT, changed: dict[str, Tensor | None], reason: str
) -> None:
    fitting = replace(given(2).conditioning, first_frame_latents=torch.zeros(1, 4, 1, 4, 4))
    replacing.prepare(fitting, (1, CHANNELS, FRAMES, SIDE, SIDE))
    with pytest.raises(ValueError, match=reason):
        replacing.prepare(replace(fitting, **changed), (1, CHANNELS, FRAMES, SIDE, SIDE))


def test_both_conditionings_have_a_first_frame_or_none(tmp_path: Path) -> None:
    small.transformer_10().save_pretrained(tmp_path)
    both = Sides(None, Runtime.load(tmp_path, dtype=torch.float32))
    first, noise = random(1, 1, CHANNELS, 1, SIDE, SIDE), random(2, 1, CHANNELS, FRAMES, SIDE, SIDE)
    positive = with_image(given(2).conditioning, both.runtime.config, first)
    args, scale = (noise, shifted(2, 7.0)), {"classifier_free_scale": 2.0}
    with pytest.raises(ValueError, match="in both conditionings or in none"):
        both.sample(positive, *args, given(4).conditioning, **scale)
    latents = both.sample(positive, *args, positive, **scale)
    assert torch.equal(latents[:, :, :1], first), "of a checkpoint that does not say what it takes"


def test_blocks_with_two_groups_compile_without_a_break(replacing: DiT) -> None:
    conditioning = replace(given(2).conditioning, first_frame_latents=torch.ones(1, 4, 1, 4, 4))
    latents = random(1, 1, CHANNELS, FRAMES, SIDE, SIDE)
    step = StepInputs(torch.tensor([900.0]), None, torch.tensor([6000.0]))
    prepared = replacing.prepare(conditioning, latents.shape)
    for block in (replacing.double_blocks[0], replacing.single_blocks[0]):
        torch._dynamo.reset()
        compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
        with torch.no_grad():
            tokens, context = replacing.embed(latents, step, prepared)
            expected, actual = (
                materialise(each((PendingSum(tokens),), context), block.ops)
                for each in (block, compiled)
            )
        assert relative_error(actual, expected) <= TOLERANCE


def test_a_share_of_an_image_needs_one() -> None:
    with pytest.raises(ValueError, match="needs a conditioning with one"):
        given(1).conditioning.mixed_into(random(1, 1, CHANNELS, 1, 2, 2), 0.001)
