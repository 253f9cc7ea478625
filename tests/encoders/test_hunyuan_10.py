"""Encoder of HunyuanVideo 1.0 against diffusers' own `encode_prompt`, with the same small parts."""

from dataclasses import fields
from typing import Any

import pytest
import torch
import transformers

import small_parts
from disca_rt.conditioning import Conditioning
from disca_rt.encoders import templates
from disca_rt.encoders.hunyuan_10 import Encoder10
from disca_rt.encoders.language import cut
from disca_rt.encoders.rules import RULES
from encoders.parts import assert_equal, picture, shared

PROMPTS = ["a cat walks on the grass", 'she says "hi", 猫 🐈', "", "x" * 255]


def encoder(rules: str = "disca", **changed: Any) -> Encoder10:
    pipeline = shared("pipeline_10")
    parts = {
        "llama": pipeline.text_encoder,
        "tokenizer": pipeline.tokenizer,
        "clip": pipeline.text_encoder_2,
        "tokenizer_2": pipeline.tokenizer_2,
    }
    return Encoder10(**{**parts, **changed}, rules=RULES[rules])


def theirs(prompts: list[str], template: str, crop: int, length: int = 256) -> Conditioning:
    """Conditioning by diffusers, with the crop that this tokenizer's template has."""
    with torch.no_grad():
        states, pooled, mask = shared("pipeline_10").encode_prompt(
            prompts,
            prompt_template={"template": template, "crop_start": crop},
            max_sequence_length=length,
            device="cpu",
        )
    return Conditioning(text_states=states, text_mask=mask, text_states_2=pooled)


@pytest.mark.parametrize("rules", RULES)
def test_conditioning_is_that_of_diffusers(rules: str) -> None:
    ours = encoder(rules)
    expected = theirs(PROMPTS, templates.VIDEO.text, ours.prompts.video.crop)
    assert_equal(ours(PROMPTS), expected, has_padding=rules != "disca")


@pytest.mark.parametrize("is_cut", [False, True])
def test_model_may_come_cut(is_cut: bool) -> None:
    llama = shared("pipeline_10").text_encoder
    ours = encoder(llama=cut(llama) if is_cut else llama)
    assert torch.equal(ours(PROMPTS).text_states, encoder()(PROMPTS).text_states)


def test_what_is_too_long_or_not_stripped_is_as_in_diffusers() -> None:
    ours, odd = encoder("diffusers"), ["\n a cat \n", "x" * 256, "two words " * 300]
    expected = theirs(odd, templates.VIDEO.text, ours.prompts.video.crop)
    assert_equal(ours(odd), expected, has_padding=True)


def test_a_single_frame_is_described_by_the_image_template() -> None:
    ours = encoder("official")
    crop, length = ours.prompts.frame.crop, ours.prompts.length
    expected = theirs(PROMPTS, templates.IMAGE.text, crop, length - crop)
    assert_equal(ours(PROMPTS, frames=1), expected, has_padding=True)
    video = encoder("diffusers")(PROMPTS, frames=1)
    assert_equal(video, encoder("diffusers")(PROMPTS, frames=5), has_padding=True)


@pytest.mark.parametrize("negative", [False, True])
def test_rows_are_those_of_single_prompts(negative: bool) -> None:
    ours = encoder()
    batch = ours(PROMPTS, negative=negative)
    for index, prompt in enumerate(PROMPTS):
        single = ours([prompt], negative=negative)
        row = Conditioning(**{name: t[index : index + 1] for name, t in batch.tensors().items()})
        assert_equal(row, single, has_padding=False)


def test_negative_side_is_a_prompt_like_any_other() -> None:
    texts = ["", "dull"]
    assert_equal(encoder()(texts, negative=True), encoder()(texts), has_padding=True)
    named = encoder("official")(texts, negative=True)
    expected = encoder("official")([templates.NEGATIVE, "dull"])
    assert_equal(named, expected, has_padding=True)


def test_each_network_keeps_its_dtype_and_device() -> None:
    llama = small_parts.llama().bfloat16()
    conditioning = encoder(llama=llama)(PROMPTS)
    assert conditioning.text_states.dtype == torch.bfloat16
    assert conditioning.text_states_2.dtype == torch.float32
    assert conditioning.text_mask.dtype == torch.int64
    assert not any(tensor.requires_grad for tensor in conditioning.tensors().values())
    expected = encoder()(PROMPTS)
    error = (conditioning.text_states - expected.text_states)[expected.text_mask.bool()]
    assert error.norm() < 0.05 * expected.text_states.norm()


def test_image_is_refused() -> None:
    with pytest.raises(ValueError, match="image needs a model of image to video"):
        encoder()(["a cat"], picture())


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ("tokenizer", r"has no token <\|start_header_id\|>; load it with"),
        ("tokenizer_2", "tokenizer_2 has 519 tokens, and CLIP 514; load that of clip-vit"),
    ],
)
def test_tokenizer_of_another_model_is_refused(part: str, fault: str) -> None:
    words = [f"<w{index}>" for index in range(260)]
    wrong = small_parts.qwen_tokenizer()
    wrong.add_tokens(words)
    assert len(wrong) == 519
    with pytest.raises(ValueError, match=fault):
        encoder(**{part: wrong})


def test_rules_are_complete_and_frozen() -> None:
    assert list(RULES) == ["disca", "diffusers", "official"]
    with pytest.raises(AttributeError):
        RULES["disca"].keeps_end = False
    rows = [tuple(getattr(row, field.name) for field in fields(row)) for row in RULES.values()]
    assert len(set(rows)) == 3


def test_pooled_state_is_the_authors_with_their_mask() -> None:
    """Their call of CLIP has the mask of padding, diffusers' has none: CLIP is causal."""
    pipeline = shared("pipeline_10")
    inputs = pipeline.tokenizer_2(
        PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        masked = pipeline.text_encoder_2(**inputs).pooler_output
    torch.testing.assert_close(encoder()(PROMPTS).text_states_2, masked, rtol=1e-6, atol=1e-6)
    assert isinstance(pipeline.text_encoder_2, transformers.CLIPTextModel)
