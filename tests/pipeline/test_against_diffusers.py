"""Whole models, from prompts to frames, against diffusers' own pipelines of the same parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from disca_rt import Pipeline, Request, preset
from disca_rt.encoders import templates
from disca_rt.pipeline.images import to_video

pytest.importorskip("diffusers")
from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video

import small_parts
from encoders import parts

PROMPT = 'a cat with a sign "HI" and one with “ho” walks on the grass'
SIZE = {"num_frames": 9, "height": 48, "width": 64}
STEPS, SEED = 4, 3
TEMPLATE = pipeline_hunyuan_video.DEFAULT_PROMPT_TEMPLATE["template"]

# Case -> the pipeline's maker, what diffusers is called with, and a request's fields.
CASES: dict[str, tuple[Callable[[], Any], dict[str, Any], dict[str, Any]]] = {
    "1.0": (
        lambda: small_parts.pipeline_10(guidance_embeds=True),
        {**SIZE, "guidance_scale": 5.0},
        {"guidance_scale": 5.0},
    ),
    "1.0 and two passes": (
        lambda: small_parts.pipeline_10(guidance_embeds=True),
        {**SIZE, "negative_prompt": "ugly", "true_cfg_scale": 3.0},
        {"negative_prompt": "ugly", "guidance_scale": 6.0, "classifier_free_scale": 3.0},
    ),
    "1.5": (
        small_parts.pipeline_15,
        {**SIZE, "negative_prompt": 'ugly "no"'},
        {"negative_prompt": 'ugly "no"', "classifier_free_scale": 6.0},
    ),
    "1.5 from an image": (
        small_parts.pipeline_15_image,
        {"num_frames": 9, "negative_prompt": "ugly"},
        {"negative_prompt": "ugly", "classifier_free_scale": 6.0},
    ),
}


IMAGE_TOKENS = 4  # of the small LLaVA


def pipeline_10_image(kind: str) -> Any:
    """diffusers' image-to-video of 1.0: `kind` is its image_condition_type."""
    channels = {"token_replace": 4, "latent_concat": 9}[kind]
    chosen = {"in_channels": channels, "image_condition_type": kind, "guidance_embeds": True}
    models = {"transformer": small_parts.transformer_10(**chosen), "vae": small_parts.vae_10()}
    models["scheduler"] = small_parts.diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0)
    encoders = parts.pipeline_10_image().components
    return small_parts.diffusers.HunyuanVideoImageToVideoPipeline(**{**encoders, **models})


@pytest.mark.parametrize("kind", ["token_replace", "latent_concat"])
def test_image_to_video_of_1_0_is_that_of_diffusers(kind: str, tmp_path: Path) -> None:
    made, image = pipeline_10_image(kind), picture()
    made.set_progress_bar_config(disable=True)
    made.save_pretrained(tmp_path)
    with Pipeline.load(tmp_path, match="diffusers", dtype=torch.float32) as pipeline:
        prompts, token = pipeline.text_encoder.prompts.video, pipeline.text_encoder.image_token
        first = prompts.tokens("", 10_000, keeps_end=True).ids.index(token)
        template = {
            "template": templates.IMAGE_TO_VIDEO.text,
            "crop_start": prompts.crop,
            "image_emb_start": first,
            "image_emb_end": first + IMAGE_TOKENS,
            "image_emb_len": IMAGE_TOKENS,
        }
        frames = made(
            image=image,
            prompt=PROMPT,
            prompt_template=template,
            guidance_scale=6.0,
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(SEED),
            output_type="pt",
            **SIZE,
        ).frames.transpose(1, 2)
        sampled = {"schedule": preset(STEPS, 7.0), "policy": "full", "seed": SEED}
        given = {"prompts": [PROMPT], "size": (9, 48, 64), "image": image, "guidance_scale": 6.0}
        sample = pipeline.run(Request(**given, **sampled))
        assert sample.video.shape == frames.shape, "a concatenated picture costs four frames"
        assert (sample.video - frames).abs().max() < 1 / 255
        if kind == "token_replace":  # held from the noise to the end
            latents = pipeline.codec.encode(
                to_video(image.resize((64, 48), Image.Resampling.LANCZOS))
            )
            assert torch.equal(sample.latents[:, :, :1], latents)


def picture() -> Image.Image:
    """Noise of 70x50 pixels, whose nearest published size is 64x48."""
    pixels = torch.randint(0, 256, (50, 70, 3), generator=torch.Generator().manual_seed(0))
    return Image.fromarray(pixels.byte().numpy())


def theirs(pipeline: Any, crop: int, given: dict[str, Any], output_type: str) -> Tensor:
    """Latents or frames of diffusers' pipeline, as `[1, C, T, H, W]`."""
    pipeline.set_progress_bar_config(disable=True)
    if isinstance(pipeline, small_parts.diffusers.HunyuanVideoPipeline):
        given = {**given, "prompt_template": {"template": TEMPLATE, "crop_start": crop}}
    pipeline.prompt_template_encode_start_idx = crop
    generator = torch.Generator().manual_seed(SEED)
    made = pipeline(
        prompt=PROMPT,
        num_inference_steps=STEPS,
        generator=generator,
        output_type=output_type,
        **given,
    )
    return made.frames if output_type == "latent" else made.frames.transpose(1, 2)


@pytest.mark.parametrize("case", CASES)
def test_latents_and_frames_are_those_of_diffusers(case: str, tmp_path: Path) -> None:
    make, given, fields = CASES[case]
    their_pipeline = make()
    their_pipeline.save_pretrained(tmp_path)
    with Pipeline.load(tmp_path, match="diffusers", dtype=torch.float32) as pipeline:
        if "image" in case:
            given, fields = {**given, "image": picture()}, {**fields, "image": picture()}
        encoder = pipeline.text_encoder
        template = encoder.prompts.video if case[:3] == "1.0" else encoder.prompts.template
        shift = their_pipeline.scheduler.config.shift
        request = Request(
            prompts=[PROMPT],
            size=(9, 48, 64),
            schedule=preset(STEPS, shift),
            policy="full",
            seed=SEED,
            **fields,
        )
        sample = pipeline.run(request)
        latents, frames = (
            theirs(their_pipeline, template.crop, given, kind) for kind in ("latent", "pt")
        )
        error = (sample.latents - latents).abs().max() / latents.abs().max()
        assert error < 1e-5
        assert (sample.video - frames).abs().max() < 1 / 255
        assert frames.std() > 0.05, "frames of one colour would prove nothing"
        other = pipeline.run(Request(**{**vars(request), "seed": SEED + 1}))
        assert (other.latents - latents).abs().max() > 0.1
