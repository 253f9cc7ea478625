"""Prompts as tokens of a language model: put into a template, cut to its length, padded.

Knows tokenizers of transformers by their calls, and no network.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .templates import Template

SPECIAL = re.compile(r"<\|\w+\|>|<image>")
SPACES = "the  video\n\n of\na camera "  # the letters are the templates' own
SHOWN = 120  # characters of either end of a lost text


class WrongTokenizer(ValueError):
    """Tokenizer of another model: `part` is "tokenizer" or "tokenizer_2", `fault` says why."""

    def __init__(self, part: str, fault: str, way_out: str) -> None:
        super().__init__(f"{part} {fault}; {way_out}")
        self.part, self.fault = part, fault


class Tokens(NamedTuple):
    """One prompt in its template: its `ids`, and the text that did not fit.

    `lost` is None where all did, and empty where only the end mark did not.
    """

    ids: list[int]
    lost: str | None


class Batch(NamedTuple):
    """Prompts of one length: `ids [B, L]` and `mask [B, L]`, 1 for valid, both int64."""

    ids: Tensor
    mask: Tensor


class PromptTokenizer:
    """A tokenizer, and the template that its prompts are put into.

    `crop` is how many tokens come before the prompt, `end` those after it, measured with the empty
    prompt. Raises WrongTokenizer, with the right way to load it, for one that is not this model's:
    it loses white space or has no such marks.
    """

    def __init__(self, tokenizer: Any, template: Template) -> None:
        self.tokenizer, self.template = tokenizer, template
        if not template.is_plain and not getattr(tokenizer, "chat_template", None):
            raise self._refusal("has no chat_template")
        rendered = template.rendered(tokenizer)
        if rendered.count("{}") != 1:
            raise self._refusal("does not put the prompt into its chat_template as it is")
        self.before, self.after = rendered.split("{}")
        self._check_spaces()
        self._check_marks(rendered)
        whole, self.end = self._ids(self.before + self.after), self._plain_ids(self.after)
        self.crop = len(whole) - len(self.end)
        if whole[self.crop :] != self.end:
            raise self._refusal("adds tokens after the end of a text")

    @property
    def pad(self) -> int:
        """Token of padding; without one any is as good, for padding is masked."""
        return self.tokenizer.pad_token_id or 0

    def check_rows(self, rows: int) -> None:
        """Raise ValueError where a network with `rows` tokens is not of this tokenizer."""
        known = len(self.tokenizer)
        if known > rows:
            raise self._refusal(f"has {known} tokens, and the text encoder {rows}")
        if rows == self.template.rows and self.crop != self.template.crop:
            expected = f"{self.crop} tokens before the prompt, not {self.template.crop}"
            raise self._refusal(f"splits the template into {expected}")

    def texts(self, prompts: Sequence[str], *, strips: bool) -> list[str]:
        """Prompts as they are put into the template; ValueError for one that cannot be."""
        if isinstance(prompts, str):
            raise ValueError(f"prompts must be a list of texts, got the text {prompts!r}")
        for prompt in prompts:
            self._check_text(prompt)
        return [prompt.strip() if strips else prompt for prompt in prompts]

    def tokens(self, text: str, length: int, *, keeps_end: bool) -> Tokens:
        """Put `text` into the template and cut it to `length` tokens, before or through its end."""
        ids = self._ids(self.before + text + self.after)
        if len(ids) <= length:
            return Tokens(ids, None)
        kept = length - len(self.end) if keeps_end else length
        lost = self._text(ids[kept : len(ids) - len(self.end)])
        return Tokens(ids[:kept] + (self.end if keeps_end else []), lost)

    def _ids(self, text: str) -> list[int]:
        return self._plain_ids(text, self.template.has_begin)

    def _plain_ids(self, text: str, has_begin: bool = False) -> list[int]:
        return self.tokenizer(text, add_special_tokens=has_begin, verbose=False)["input_ids"]

    def _text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def _check_spaces(self) -> None:
        if self._text(self._plain_ids(SPACES)) != SPACES:
            raise self._refusal("loses blanks and line breaks")

    def _check_marks(self, rendered: str) -> None:
        for mark in dict.fromkeys(SPECIAL.findall(rendered)):
            ids = self._plain_ids(mark)
            if len(ids) != 1 or self._text(ids) != mark:  # one unknown token is no mark
                raise self._refusal(f"has no token {mark}")

    def _check_text(self, prompt: str) -> None:
        if not isinstance(prompt, str):
            raise ValueError(f"prompts must be texts, got a {type(prompt).__name__}")
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            fault = f"is no valid Unicode at character {error.start}"
            raise ValueError(f"{named(prompt)} {fault}; write it again") from None
        for token in self.tokenizer.added_tokens_decoder.values():
            if token.special and token.content in prompt:
                mark = f"{token.content}, a mark of the text encoder's own"
                raise ValueError(f"{named(prompt)} holds {mark}; take it out of the prompt")

    def _refusal(self, fault: str) -> WrongTokenizer:
        fault = f"({type(self.tokenizer).__name__}) {fault}"
        return WrongTokenizer("tokenizer", fault, self.template.how_to_load)


def padded(rows: Sequence[Sequence[int]], pad: int, length: int) -> Batch:
    """Rows of at most `length` tokens as one batch, padding on the right."""
    ids = torch.full((len(rows), length), pad)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return Batch(ids, mask)


def cut_line(prompt: str, lost: str, limit: int, what: str = "") -> str:
    """One line that says what `prompt`, or a part of it, loses to a limit of `limit` tokens."""
    end = f'end ({len(lost)} characters): "{_shown(lost, SHOWN, SHOWN)}"'
    kept = f"{what}{named(prompt)} is longer than {limit} tokens"
    return f"{kept} and loses its {end if lost else 'end mark'}"


def named(prompt: str) -> str:
    """A prompt's name in a message: how it begins."""
    return f'prompt "{_shown(prompt, SHOWN // 3, 0)}"'


def _shown(text: str, first: int, last: int) -> str:
    """Text on one line and printable, its middle left out if it is long."""
    line = " ".join(text.split())
    line = "".join(letter if letter.isprintable() else "\ufffd" for letter in line)
    if len(line) <= first + last + 2:
        return line
    return f"{line[:first].rstrip()} … {line[len(line) - last :]}".rstrip()
