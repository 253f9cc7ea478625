"""Whole models, from prompts to frames, against diffusers' own pipelines of the same parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from disca_rt import Pipeline, Request, preset

pytest.importorskip("diffusers")
from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video

import small_parts

PROMPT = 'a cat with a sign "HI" and one with “ho” walks on the grass'
SIZE = {"num_frames": 9, "height": 48, "width": 64}
STEPS, SEED = 4, 3
TEMPLATE = pipeline_hunyuan_video.DEFAULT_PROMPT_TEMPLATE["template"]

ODD = {
    "num_refiner_layers": 1,
    "mlp_ratio": 2.0,
    "attention_head_dim": 10,
    "rope_axes_dim": (2, 4, 4),
}

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
    "1.0 of diffusers' own test sizes": (
        lambda: small_parts.pipeline_10(guidance_embeds=True, **ODD, patch_size=1),
        {**SIZE, "guidance_scale": 5.0},
        {"guidance_scale": 5.0},
    ),
    "1.5 of diffusers' own test sizes": (
        lambda: small_parts.pipeline_15(**ODD),
        {**SIZE, "negative_prompt": "ugly"},
        {"negative_prompt": "ugly", "classifier_free_scale": 6.0},
    ),
    "1.5 from an image": (
        small_parts.pipeline_15_image,
        {"num_frames": 9, "negative_prompt": "ugly"},
        {"negative_prompt": "ugly", "classifier_free_scale": 6.0},
    ),
}


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
