"""Text that a video is to show: what a prompt quotes, and its states by byT5.

The wording is that of hyvideo/models/text_encoders/byT5/format_prompt.py of HunyuanVideo-1.5, with
neither colour nor font, as its pipeline calls it.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .language import device_of

QUOTED = re.compile(r'"([^"\n]*)"|“([^”\n]*)”')
LENGTH = 256  # tokens, which for byT5 are bytes


class Glyphs(NamedTuple):
    """Glyphs of `B` prompts: `states [B, 256, D]` and `mask [B, 256]`, int64, 1 for valid."""

    states: Tensor
    mask: Tensor


def quoted(prompt: str) -> list[str]:
    """Texts in straight or curly double quotes on one line, in order, each once."""
    return list(dict.fromkeys(straight or curly for straight, curly in QUOTED.findall(prompt)))


def glyph_prompt(prompt: str) -> str:
    """Text that byT5 gets for `prompt`; empty where it quotes nothing."""
    return "".join(f'Text "{text}". ' for text in quoted(prompt))


def lost_glyphs(tokenizer: Any, prompt: str) -> str:
    """Quoted text of `prompt` that byT5 does not see, or ""."""
    text = glyph_prompt(prompt)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return tokenizer.decode(ids[LENGTH - 1 :]).strip("\ufffd")  # one token is the end mark


def encode_glyphs(byt5: nn.Module, tokenizer: Any, prompts: Sequence[str]) -> Glyphs:
    """Glyphs of each prompt; zeros, all masked, for one that quotes nothing."""
    device, width = device_of(byt5), byt5.config.d_model
    states = torch.zeros(len(prompts), LENGTH, width, device=device, dtype=byt5.dtype)
    mask = torch.zeros(len(prompts), LENGTH, device=device, dtype=torch.int64)
    for index, prompt in enumerate(prompts):
        text = glyph_prompt(prompt)
        if text:
            states[index], mask[index] = _encoded(byt5, tokenizer, text)
    return Glyphs(states, mask)


def _encoded(byt5: nn.Module, tokenizer: Any, text: str) -> Glyphs:
    inputs = tokenizer(
        text, max_length=LENGTH, padding="max_length", padding_side="right", truncation=True
    )
    ids, mask = (
        torch.tensor([inputs[name]], device=device_of(byt5))
        for name in ("input_ids", "attention_mask")
    )
    with torch.no_grad():  # the mask as the authors give it, as a float
        states = byt5(input_ids=ids, attention_mask=mask.float())[0]
    return Glyphs(states[0], mask[0])
