"""Encoder of HunyuanVideo 1.5 against diffusers' own `encode_prompt`, with the same small parts."""

from typing import Any

import pytest
import torch
import transformers

from disca_rt.conditioning import Conditioning
from disca_rt.encoders.hunyuan_15 import Encoder15
from disca_rt.encoders.rules import RULES
from encoders.parts import assert_equal, picture, shared

PROMPTS = [
    'a "cat" beside “two words”',
    "a dog; 猫 🐈",
    "",
    'a "b" ' * 99 + "c",
    "x" * 987,
]


def encoder(rules: str = "disca", has_siglip: bool = False, **changed: Any) -> Encoder15:
    pipeline = shared("pipeline_15_image")
    parts = {
        "qwen": pipeline.text_encoder,
        "tokenizer": pipeline.tokenizer,
        "byt5": pipeline.text_encoder_2,
        "tokenizer_2": pipeline.tokenizer_2,
        "siglip": pipeline.image_encoder if has_siglip else None,
        "processor": pipeline.feature_extractor if has_siglip else None,
        "vision_width": 12,
    }
    return Encoder15(**{**parts, **changed}, rules=RULES[rules])


def theirs(prompts: list[str], crop: int) -> Conditioning:
    """Conditioning by diffusers, with the crop that this tokenizer's template has."""
    pipeline = shared("pipeline_15_image")
    pipeline.prompt_template_encode_start_idx = crop
    with torch.no_grad():
        encoded = pipeline.encode_prompt(prompts, device="cpu", batch_size=len(prompts))
    names = "text_states", "text_mask", "byt5_text_states", "byt5_text_mask"
    return Conditioning(**dict(zip(names, encoded, strict=True)))


@pytest.mark.parametrize("rules", RULES)
def test_conditioning_is_that_of_diffusers(rules: str) -> None:
    ours = encoder(rules)
    expected = theirs(PROMPTS, ours.prompts.template.crop)
    assert_equal(ours(PROMPTS), expected, has_padding=rules != "disca")
    assert ours(PROMPTS).byt5_text_mask.any(1).tolist() == [True, False, False, True, False]


def test_what_is_too_long_or_not_stripped_is_as_in_diffusers() -> None:
    ours, odd = encoder("diffusers"), ["\n a cat \n", "x" * 988, f'"{"g" * 400}"']
    expected = theirs(odd, ours.prompts.template.crop)
    assert_equal(ours(odd), expected, has_padding=True)


@pytest.mark.parametrize(("rules", "reads"), [("disca", 0), ("official", 0), ("diffusers", 1)])
def test_negative_prompts_quotes_count_by_diffusers_rules_alone(rules: str, reads: int) -> None:
    ours = encoder(rules)
    negative = ours(PROMPTS, negative=True)
    expected = theirs(PROMPTS, ours.prompts.template.crop)
    nothing = theirs([""] * len(PROMPTS), ours.prompts.template.crop)
    glyphs = (nothing, expected)[reads]
    assert torch.equal(negative.byt5_text_mask, glyphs.byt5_text_mask.long())
    assert torch.equal(negative.byt5_text_states, glyphs.byt5_text_states)
    assert torch.equal(negative.text_mask, expected.text_mask.long())


def test_rows_are_those_of_single_prompts() -> None:
    ours, image = encoder(has_siglip=True), picture()
    batch = ours(PROMPTS, image)
    for index, prompt in enumerate(PROMPTS):
        row = Conditioning(**{name: t[index : index + 1] for name, t in batch.tensors().items()})
        assert_equal(row, ours([prompt], image), has_padding=False)


@pytest.mark.parametrize("negative", [False, True])
def test_states_of_an_image_are_those_of_diffusers(negative: bool) -> None:
    image, pipeline = picture(), shared("pipeline_15_image")
    with torch.no_grad():
        expected = pipeline.encode_image(image, 3, "cpu", torch.float32)
    states = encoder(has_siglip=True)(["a", "b", "c"], image, negative=negative).vision_states
    assert states.shape == (3, 4, 12)
    torch.testing.assert_close(states, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("has_siglip", "tokens"), [(False, 729), (True, 4)])
def test_without_an_image_its_states_are_zero(has_siglip: bool, tokens: int) -> None:
    states = encoder(has_siglip=has_siglip)(PROMPTS).vision_states
    assert states.shape == (len(PROMPTS), tokens, 12)
    assert not states.any()


def test_image_without_its_network_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image needs an image_encoder \(SigLIP\), which this"):
        encoder()(["a"], picture())


def test_each_network_keeps_its_dtype() -> None:
    half = shared("pipeline_15_image").image_encoder.__class__(
        shared("pipeline_15_image").image_encoder.config
    )
    conditioning = encoder(has_siglip=True, siglip=half.bfloat16())(PROMPTS, picture())
    assert conditioning.vision_states.dtype == torch.bfloat16
    assert conditioning.text_states.dtype == torch.float32
    assert conditioning.byt5_text_mask.dtype == conditioning.text_mask.dtype == torch.int64
    assert not any(tensor.requires_grad for tensor in conditioning.tensors().values())


def test_tokenizer_of_another_model_is_refused() -> None:
    wrong = transformers.ByT5Tokenizer(extra_ids=200)
    with pytest.raises(ValueError, match="tokenizer_2 has 459 tokens, and byT5 390; transformers"):
        encoder(tokenizer_2=wrong)
