"""Quoted text as byT5 gets it, by vectors of the authors' own functions (HunyuanVideo-1.5)."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disca_rt.encoders.glyphs import glyph_prompt, quoted

VECTORS = json.loads(Path(__file__).with_name("glyphs.json").read_text())


@pytest.mark.parametrize(("prompt", "expected"), VECTORS)
def test_quoted_text_is_worded_as_the_authors_do(prompt: str, expected: str) -> None:
    assert glyph_prompt(prompt) == expected


@given(st.lists(st.text(st.characters(exclude_characters='"“”\n')), max_size=5))
def test_each_quoted_text_is_found_once_and_in_order(texts: list[str]) -> None:
    prompt = " and ".join(f'"{text}"' if len(text) % 2 else f"“{text}”" for text in texts)
    assert quoted(prompt) == list(dict.fromkeys(texts))
