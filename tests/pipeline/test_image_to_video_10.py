"""1.0 from an image: both of its kinds and SkyReels, against diffusers' own pipelines."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from disca_rt import Pipeline, Request, cli, preset

pytest.importorskip("diffusers")
import diffusers
from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video

import small_parts
from disca_rt.encoders import templates
from disca_rt.folders import load as folders_load
from encoders import parts

SIZE = 9, 48, 64
STEPS, SEED = 2, 3
CONDITION_CHANNELS = {"token_replace": 4, "latent_concat": 9, "skyreels": 8}
LOST_LATENTS = {"latent_concat": 1}  # in time, of what diffusers gives


def shared() -> dict[str, Any]:
    return {
        "vae": small_parts.vae_10(),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=small_parts.SHIFT_10),
        "text_encoder_2": small_parts.clip(),
        "tokenizer_2": small_parts.clip_tokenizer(),
    }


def made(kind: str) -> Any:
    sizes = {"in_channels": CONDITION_CHANNELS[kind], "guidance_embeds": kind != "latent_concat"}
    if kind == "skyreels":
        return diffusers.HunyuanSkyreelsImageToVideoPipeline(
            text_encoder=small_parts.llama(),
            tokenizer=small_parts.llama_tokenizer(),
            transformer=small_parts.transformer_10(**sizes),
            **shared(),
        )
    return diffusers.HunyuanVideoImageToVideoPipeline(
        text_encoder=parts.llava(),
        tokenizer=parts.llava_tokenizer(),
        transformer=small_parts.transformer_10(**sizes, image_condition_type=kind),
        image_processor=parts.llava_processor(),
        **shared(),
    )


def template_of(encoder: Any) -> dict[str, Any]:
    """diffusers' words of the template, with the places that the small tokenizer gives them."""
    prompts = encoder.prompts.video
    if not hasattr(encoder, "image_token"):
        text = pipeline_hunyuan_video.DEFAULT_PROMPT_TEMPLATE["template"]
        return {"template": text, "crop_start": prompts.crop}
    first = prompts.tokens("", 10_000, keeps_end=True).ids.index(encoder.image_token)
    return {
        "template": templates.IMAGE_TO_VIDEO.text,
        "crop_start": prompts.crop,
        "image_emb_start": first,
        "image_emb_end": first + 4,
        "image_emb_len": 4,
    }


def theirs(pipeline: Any, encoder: Any, kind: str, picture: Image.Image) -> Tensor:
    frames, height, width = SIZE
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        image=picture,
        prompt="a cat",
        negative_prompt="dull",
        true_cfg_scale=3.0,
        num_frames=frames,
        height=height,
        width=width,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(SEED),
        prompt_template=template_of(encoder),
        output_type=kind,
        **({} if pipeline.transformer.config.guidance_embeds is False else {"guidance_scale": 5.0}),
    ).frames


@pytest.mark.parametrize("kind", CONDITION_CHANNELS)
def test_latents_and_frames_are_those_of_diffusers(kind: str, tmp_path: Path) -> None:
    """The picture is of another shape than the video, which diffusers' 1.0 stretches."""
    pipeline = made(kind)
    pipeline.save_pretrained(tmp_path)
    picture = parts.picture(100, 40)
    scales = {} if kind == "latent_concat" else {"guidance_scale": 5.0}
    with Pipeline.load(tmp_path, match="diffusers", dtype=torch.float32) as ours:
        sample = ours.run(
            Request(
                prompts=["a cat"],
                negative_prompt="dull",
                image=picture,
                size=SIZE,
                schedule=preset(STEPS, small_parts.SHIFT_10),
                policy="full",
                seed=SEED,
                classifier_free_scale=3.0,
                **scales,
            )
        )
        encoder = ours.text_encoder
    latents = theirs(pipeline, encoder, "latent", picture)
    frames = theirs(pipeline, encoder, "pt", picture).transpose(1, 2)
    mine = sample.latents[:, :, LOST_LATENTS.get(kind, 0) :]
    assert (mine - latents).abs().max() < 1e-5 * latents.abs().max()
    assert (sample.video - frames).abs().max() < 1 / 255


@pytest.fixture(scope="module")
def concat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("concat")
    made("latent_concat").save_pretrained(folder)
    return folder


def test_a_video_of_lost_frames_alone_is_refused_before_it_is_sampled(concat: Path) -> None:
    with (
        Pipeline.load(concat, dtype=torch.float32) as pipeline,
        pytest.raises(ValueError, match="give at least 5 frames, got 1"),
    ):
        pipeline.generate("a cat", image=parts.picture(), frames=1, height=32, width=32)


def test_a_picture_needs_a_vae(concat: Path) -> None:
    with Pipeline.load(concat, dtype=torch.float32) as pipeline:
        pipeline.codec = None
        with pytest.raises(ValueError, match="image needs a VAE"):
            pipeline.generate("a cat", image=parts.picture(), frames=5, height=32, width=32)


def test_encoders_are_freed_before_the_vae_of_the_picture_is_loaded(
    concat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: dict[str, set[str]] = {}
    refs: dict[str, weakref.ref] = {}
    load = folders_load.load_part

    def watched(folder: Any, name: str, *given: Any) -> Any:
        part = load(folder, name, *given)
        refs[name] = weakref.ref(part)
        gc.collect()
        alive[name] = {each for each, ref in refs.items() if ref() is not None}
        return part

    monkeypatch.setattr(folders_load, "load_part", watched)
    fields = {"schedule": preset(1, 5.0), "policy": "full", "frames": 5, "height": 32, "width": 32}
    with Pipeline.load(concat, dtype=torch.float32) as pipeline:
        pipeline.generate("a cat", image=parts.picture(), **fields)
    assert {"text_encoder", "text_encoder_2"} <= alive["text_encoder_2"]
    assert alive["vae"] == {"vae"}


def test_latents_that_were_kept_lose_the_same_frames(concat: Path, tmp_path: Path) -> None:
    parts.picture().save(tmp_path / "a.png")
    latents = tmp_path / "kept.safetensors"
    common = ["--model", str(concat), "--frames-out"]
    asked = ["--image", str(tmp_path / "a.png"), "--size", "32x32x9", "--steps", "1"]
    cli.main(
        ["generate", "a cat", *common, str(tmp_path / "1"), "--latents-out", str(latents), *asked]
    )
    cli.main(["decode", str(latents), *common, str(tmp_path / "2")])
    first, second = (sorted((tmp_path / name).iterdir()) for name in "12")
    assert len(first) == len(second) == 5
    assert [each.read_bytes() for each in first] == [each.read_bytes() for each in second]
