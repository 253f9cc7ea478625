"""Prompts in their templates: crops, ends, cuts, and tokenizers that are not the model's."""

from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import small_parts
from disca_rt.encoders import templates
from disca_rt.encoders.hunyuan_10 import Prompts10
from disca_rt.encoders.hunyuan_15 import Prompts15
from disca_rt.encoders.prompts import PromptTokenizer, padded
from disca_rt.encoders.rules import RULES
from disca_rt.encoders.templates import IMAGE_TO_VIDEO, VIDEO
from encoders.parts import llava_tokenizer

LLAMA, QWEN = small_parts.llama_tokenizer(), small_parts.qwen_tokenizer()
BYT5 = transformers.ByT5Tokenizer()
END = LLAMA.convert_tokens_to_ids("<|eot_id|>")
LONG = "a cat, " * 300  # six tokens and a blank each


def byte_count(text: str) -> int:
    """Tokens of `text` by the small tokenizers: a byte each, and one a mark."""
    for mark in ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>"):
        text = text.replace(mark, "\0")
    return len(text.encode())


@pytest.mark.parametrize("name", ["VIDEO", "IMAGE", "IMAGE_TO_VIDEO"])
def test_crop_is_what_comes_before_the_prompt(name: str) -> None:
    template = getattr(templates, name)
    tokenizer = llava_tokenizer(words=())
    prompt = PromptTokenizer(tokenizer, template)
    before, after = template.text.split("{}")
    assert (prompt.crop, len(prompt.end)) == (byte_count(before), byte_count(after))
    ids = prompt.tokens("cat", 10_000, keeps_end=True).ids
    assert tokenizer.decode(ids[prompt.crop :]) == f"cat{after}"


def test_chat_template_is_the_tokenizers_own() -> None:
    prompt = PromptTokenizer(QWEN, templates.VIDEO_15)
    ids = prompt.tokens("a cat", 10_000, keeps_end=True).ids
    messages = [
        {"role": "system", "content": templates.VIDEO_15.system},
        {"role": "user", "content": "a cat"},
    ]
    whole = QWEN.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    assert ids == whole["input_ids"]
    assert QWEN.decode(ids[prompt.crop :]) == "a cat<|im_end|>\n<|im_start|>assistant\n"


def test_begin_mark_of_the_tokenizer_counts() -> None:
    plain, begun = small_parts.llama_tokenizer(), small_parts.llama_tokenizer()
    begin = ("<|begin_of_text|>", begun.convert_tokens_to_ids("<|begin_of_text|>"))
    begun.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[begin]
    )
    crops = [PromptTokenizer(tokenizer, VIDEO).crop for tokenizer in (plain, begun)]
    assert crops[1] == crops[0] + 1


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_on_the_right_whatever_the_tokenizer_says(side: str) -> None:
    tokenizer = small_parts.llama_tokenizer()
    tokenizer.padding_side = side
    prompts = Prompts10(tokenizer)
    ids, mask = padded(prompts.rows(["a cat", ""], None), prompts.video.pad, prompts.length)
    assert mask.sum(1).tolist() == [prompts.video.crop + 6, prompts.video.crop + 1]
    assert (mask.diff() <= 0).all()
    assert (ids[mask == 0] == tokenizer.pad_token_id).all()


def of_kind(tokenizer: transformers.PreTrainedTokenizerFast, folder: Path, kind: str) -> object:
    tokenizer.save_pretrained(folder)
    return getattr(transformers, kind).from_pretrained(folder)


def test_class_that_replaces_the_tokenizers_own_splitting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(LlamaTokenizer\) loses blanks and line breaks; load"):
        Prompts10(of_kind(LLAMA, tmp_path, "LlamaTokenizerFast"))
    whole = of_kind(LLAMA, tmp_path, "PreTrainedTokenizerFast")
    assert Prompts10(whole).video.crop == Prompts10(LLAMA).video.crop


def words_only() -> transformers.PreTrainedTokenizerFast:
    """Tokenizer that splits at blanks and drops them."""
    words = {word: i for i, word in enumerate(["[UNK]", *VIDEO.text.split()])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model)


def unknown_marks() -> transformers.PreTrainedTokenizerFast:
    """Tokenizer of letters, to which a mark is one unknown word."""
    letters = sorted({letter for letter in VIDEO.text if letter not in "<|>"})
    words = {word: i for i, word in enumerate(["[UNK]", *letters])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(r"<\|\w+\|>|(?m:.)"), "isolated"
    )
    model.decoder = tokenizers.decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model)


def deaf() -> transformers.PreTrainedTokenizerFast:
    """Tokenizer whose chat template leaves the prompt out."""
    tokenizer = small_parts.qwen_tokenizer()
    tokenizer.chat_template = "<|im_start|>system\n<|im_end|>\n"
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "template", "fault"),
    [
        (words_only(), VIDEO, "loses blanks and line breaks"),
        (QWEN, VIDEO, r"has no token <\|start_header_id\|>"),
        (unknown_marks(), VIDEO, r"has no token <\|start_header_id\|>"),
        (deaf(), templates.VIDEO_15, "does not put the prompt into its chat_template as it is"),
        (LLAMA, IMAGE_TO_VIDEO, "has no token <image>"),
        (LLAMA, templates.VIDEO_15, "has no chat_template"),
    ],
)
def test_tokenizer_of_another_model_is_refused(
    tokenizer: object, template: templates.Template, fault: str
) -> None:
    with pytest.raises(ValueError, match=f"^[^\n]*{fault}; load [^\n]*from_pretrained[^\n]*$"):
        PromptTokenizer(tokenizer, template)


def test_length_of_the_template_is_that_of_the_real_vocabulary() -> None:
    rows = len(LLAMA)
    crop = PromptTokenizer(LLAMA, VIDEO).crop
    PromptTokenizer(LLAMA, replace(VIDEO, rows=rows, crop=crop)).check_rows(rows)
    real = PromptTokenizer(LLAMA, replace(VIDEO, rows=rows))
    with pytest.raises(ValueError, match=f"into {crop} tokens before the prompt, not 95; load it"):
        real.check_rows(rows)
    with pytest.raises(ValueError, match=f"has {rows} tokens, and the text encoder {rows - 1}"):
        real.check_rows(rows - 1)


def test_long_prompt_is_cut_before_its_end_mark() -> None:
    prompts = Prompts10(LLAMA)
    (row,) = prompts.rows([LONG], None)
    assert len(row) == prompts.length == prompts.video.crop + 256
    assert row[-1] == END
    assert LLAMA.decode(row[prompts.video.crop : -1]) == LONG[:255]


@pytest.mark.parametrize("name", ["diffusers", "official"])
def test_other_programs_cut_through_the_end_mark(name: str) -> None:
    prompts = Prompts10(LLAMA, RULES[name])
    (row,) = prompts.rows([LONG], None)
    assert LLAMA.decode(row[prompts.video.crop :]) == LONG[:256]
    lost = "x" * 256
    assert prompts.check([lost]) == [
        f'prompt "{lost[:40]} …" is longer than 255 tokens and loses its end mark'
    ]


def test_what_a_long_prompt_loses_is_said() -> None:
    prompts = Prompts10(LLAMA)
    kept, lost = "k" * 255, "and \x1b[31m the\nrest"
    assert prompts.check(["short", "", kept, kept + lost]) == [
        f'prompt "{kept[:40]} …" is longer than 255 tokens and loses its end (18 characters): '
        '"and \ufffd[31m the rest"'
    ]
    (line,) = prompts.check([" ".join(f"word{i}" for i in range(2000))])
    assert line.endswith('word1998 word1999"')
    assert "\n" not in line
    assert len(line) < 400


def test_a_single_frame_has_the_room_that_its_shorter_template_leaves() -> None:
    prompts = Prompts10(LLAMA)
    room = prompts.length - prompts.frame.crop - 1
    assert room > 255
    assert prompts.check(["x" * room], frames=1) == []
    assert len(prompts.check(["x" * room], frames=5)) == 1
    assert len(prompts.check(["x" * (room + 1)], frames=1)) == 1


def test_prompt_and_quoted_text_that_are_too_long_for_15_are_said() -> None:
    prompts = Prompts15(QWEN, BYT5)
    assert prompts.check(['"short"', "", "x" * 987, f'"{"g" * 246}"']) == []
    whole, glyphs = prompts.check(["x" * 988, f'"{"g" * 247}é"'])
    assert "longer than 987 tokens and loses its end (1 characters)" in whole
    assert glyphs.startswith('quoted text of prompt ""ggg')
    assert "longer than 255 tokens" in glyphs
    ids = prompts.tokens("x" * 988).ids
    assert QWEN.decode(ids[-14:]) == "x<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("prompt", "fault"),
    [
        ("a <|eot_id|> b", r'prompt "a <\|eot_id\|> b" holds <\|eot_id\|>, a mark'),
        ("a \ud800 b", r"is no valid Unicode at character 2"),
        (7, "prompts must be texts, got a int"),
    ],
)
def test_prompt_that_cannot_be_encoded_is_refused(prompt: object, fault: str) -> None:
    for encode in (Prompts10(LLAMA).check, Prompts10(LLAMA).texts):
        with pytest.raises(ValueError, match=fault):
            encode(["fine", prompt])


def test_a_text_is_no_list_of_prompts() -> None:
    with pytest.raises(ValueError, match="prompts must be a list of texts, got the text 'a cat'"):
        Prompts10(LLAMA).texts("a cat")


def test_white_space_around_a_prompt_is_dropped_where_the_rules_say_so() -> None:
    ours, theirs, official = (Prompts10(LLAMA, RULES[name]) for name in RULES)
    assert ours.texts(["\n a b\t"]) == official.texts(["\n a b\t"]) == ["a b"]
    assert theirs.texts(["\n a b\t"]) == ["\n a b\t"]
    kept = [Prompts15(QWEN, BYT5, RULES[name]).texts([" a "]) for name in RULES]
    assert kept == [["a"], [" a "], [" a "]]


@pytest.mark.parametrize(("name", "text"), [("disca", ""), ("official", templates.NEGATIVE)])
def test_empty_negative_prompt_is_the_authors_own_by_their_rules(name: str, text: str) -> None:
    prompts = Prompts10(LLAMA, RULES[name])
    assert prompts.texts([" ", "dull"], negative=True) == [text, "dull"]
    assert prompts.texts([""]) == [""]


TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=400), max_size=3)


@given(TEXTS, st.sampled_from([None, 1, 5]))
@settings(max_examples=60)
def test_any_text_is_encoded_with_its_end_mark(texts: list[str], frames: int | None) -> None:
    prompts = Prompts10(LLAMA)
    template = prompts.template(frames)
    rows = prompts.rows(prompts.texts(texts), frames)
    room = prompts.length - template.crop
    assert [row[-1] for row in rows] == [END] * len(texts)
    counts = [len(text.strip().encode()) + 1 for text in texts]
    if rows:
        mask = padded(rows, template.pad, prompts.length).mask[:, template.crop :]
        assert mask.sum(1).tolist() == [min(count, room) for count in counts]
    assert len(prompts.check(texts, frames=frames)) == sum(count > room for count in counts)


@given(TEXTS)
@settings(max_examples=40)
def test_any_text_of_15_ends_with_the_assistants_header(texts: list[str]) -> None:
    prompts = Prompts15(QWEN, BYT5)
    prompts.check(texts)
    for text in prompts.texts(texts):
        ids = prompts.tokens(text).ids
        assert ids[-len(prompts.template.end) :] == prompts.template.end
        assert len(ids) == min(
            prompts.template.crop + len(text.encode() or b" ") + 13, prompts.length
        )
