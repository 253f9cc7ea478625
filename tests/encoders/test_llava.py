"""Encoder of 1.0's image-to-video against diffusers' own `encode_prompt`, with small parts."""

from typing import Any

import pytest
import torch
from PIL import Image

from disca_rt.conditioning import Conditioning
from disca_rt.encoders import templates
from disca_rt.encoders.llava import STRIDES, Encoder10Image
from disca_rt.encoders.rules import RULES
from encoders.parts import (
    WORDS,
    assert_equal,
    llava,
    llava_processor,
    llava_tokenizer,
    picture,
    pipeline_10_image,
    shared,
)

PROMPTS = ["a cat walks on the grass", "", "x" * 200]
TOKENS = 4  # of the small network's image


def encoder(
    rules: str = "disca", stride: int = 4, pipeline: Any = None, **changed: Any
) -> Encoder10Image:
    pipeline = pipeline or shared("pipeline_10_image")
    parts = {
        "llava": pipeline.text_encoder,
        "tokenizer": pipeline.tokenizer,
        "clip": pipeline.text_encoder_2,
        "tokenizer_2": pipeline.tokenizer_2,
        "processor": pipeline.image_processor,
    }
    return Encoder10Image(**{**parts, **changed}, stride=stride, rules=RULES[rules])


def theirs(
    ours: Encoder10Image, image: Image.Image, prompt: str, pipeline: Any = None, **named: Any
) -> Conditioning:
    """Conditioning by diffusers, with the places that this tokenizer's template has."""
    prompts = ours.prompts.video
    first = prompts.tokens("", 10_000, keeps_end=True).ids.index(ours.image_token)
    template = {
        "template": templates.IMAGE_TO_VIDEO.text,
        "crop_start": prompts.crop,
        "image_emb_start": first,
        "image_emb_end": first + TOKENS,
        "image_emb_len": TOKENS,
    }
    with torch.no_grad():
        states, pooled, mask = (pipeline or shared("pipeline_10_image")).encode_prompt(
            image, [prompt], prompt_template=template, device="cpu", **named
        )
    return Conditioning(text_states=states, text_mask=mask, text_states_2=pooled)


@pytest.mark.parametrize("stride", [*STRIDES.values(), 1])
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_conditioning_is_that_of_diffusers(rules: str, stride: int, prompt: str) -> None:
    ours, image = encoder(rules, stride), picture()
    expected = theirs(ours, image, prompt, image_embed_interleave=stride)
    assert_equal(ours([prompt], image), expected, has_padding=rules != "disca")


@pytest.mark.parametrize("length", [251, 252, 253, 254, 255, 256, 400])
def test_prompt_that_runs_into_the_assistants_header_is_as_in_diffusers(length: int) -> None:
    ours, image = encoder("official"), picture()
    expected = theirs(ours, image, "x" * length, image_embed_interleave=4)
    assert_equal(ours(["x" * length], image), expected, has_padding=True)


def test_header_of_other_tokens_is_cut_as_in_diffusers() -> None:
    pipeline = pipeline_10_image(words=())
    ours, image = encoder("diffusers", pipeline=pipeline), picture()
    expected = theirs(ours, image, "a cat", pipeline, image_embed_interleave=4)
    assert_equal(ours(["a cat"], image), expected, has_padding=True)


def test_prompt_stays_whole_and_the_header_goes() -> None:
    """The image's tokens, those of the prompt, and the line break after the header."""
    mask = encoder(stride=2)(PROMPTS, picture()).text_mask
    assert mask.shape == (3, 2 + 252)
    assert mask.sum(1).tolist() == [2 + len(prompt) + 1 for prompt in PROMPTS]
    long = encoder(stride=2)(["x" * 400], picture()).text_mask
    assert long.sum() == 2 + (256 - 5) + 1  # cut before the five tokens at its end
    (line,) = encoder().check(["short", "x" * 400])
    assert "is longer than 251 tokens and loses its end (149 characters)" in line


def test_rows_are_those_of_single_prompts() -> None:
    ours, image = encoder(), picture()
    batch = ours(PROMPTS, image)
    for index, prompt in enumerate(PROMPTS):
        row = Conditioning(**{name: t[index : index + 1] for name, t in batch.tensors().items()})
        assert_equal(row, ours([prompt], image), has_padding=False)


@pytest.mark.parametrize(("rules", "stride"), [("disca", 4), ("official", 4), ("diffusers", 2)])
def test_negative_side_sees_a_black_image(rules: str, stride: int) -> None:
    ours, image = encoder(rules, stride=4), picture()
    negative = ours(["dull"], image, negative=True)
    black = Image.new("RGB", (100, 70))
    expected = theirs(ours, black, "dull", image_embed_interleave=stride)
    assert_equal(negative, expected, has_padding=rules != "disca")


def test_negative_prompt_of_the_authors() -> None:
    ours, image = encoder("official"), picture()
    named = ours([templates.NEGATIVE_IMAGE_TO_VIDEO], image, negative=True)
    assert_equal(ours([""], image, negative=True), named, has_padding=True)


def test_real_image_size_has_576_tokens_of_which_every_fourth_is_read() -> None:
    ours = encoder(llava=llava(336), processor=llava_processor(336))
    conditioning = ours(["a cat"], picture())
    assert len(ours._image_embeddings(picture())) == 576
    assert conditioning.text_states.shape[:2] == (1, 576 // 4 + 252)
    assert conditioning.text_mask.sum() == 144 + len("a cat") + 1


def test_image_is_needed() -> None:
    with pytest.raises(ValueError, match="image is missing, and this is a model of image to video"):
        encoder()(["a cat"])


def test_image_mark_in_a_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="holds <image>, a mark of the text encoder's own"):
        encoder().check(["a <image> cat"])


def test_small_tokenizer_has_the_header_of_the_real_one() -> None:
    tokenizer = llava_tokenizer(WORDS)
    header = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>"
    assert len(tokenizer(header)["input_ids"]) == 4
