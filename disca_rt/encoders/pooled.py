"""The pooled state of a prompt by CLIP, the second text that HunyuanVideo 1.0 reads."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .language import device_of, rows_of
from .prompts import WrongTokenizer

LENGTH = 77
MARKS = "<|startoftext|>", "<|endoftext|>"
WAY_OUT = "load that of clip-vit-large-patch14"


def check_clip_tokenizer(tokenizer: Any) -> None:
    """Raise WrongTokenizer for one that is not CLIP's, by the marks around a text."""
    try:
        ids = tokenizer("a")["input_ids"]
    except Exception:  # the libraries' own, of files that are another model's
        ids = []
    if [*ids[:1], *ids[-1:]] != tokenizer.convert_tokens_to_ids(list(MARKS)):
        raise WrongTokenizer("tokenizer_2", f"does not put {' and '.join(MARKS)}", WAY_OUT)


def check_clip(clip: nn.Module, tokenizer: Any) -> None:
    """Raise WrongTokenizer for a tokenizer that is not of this CLIP."""
    known, rows = len(tokenizer), rows_of(clip)
    if known > rows:
        raise WrongTokenizer("tokenizer_2", f"has {known} tokens, and CLIP {rows}", WAY_OUT)
    check_clip_tokenizer(tokenizer)


def pooled_states(clip: nn.Module, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Pooled states `[B, D]` of each text's first 77 tokens, end mark included."""
    ids = tokenizer(
        list(texts),
        max_length=LENGTH,
        padding="max_length",
        padding_side="right",
        truncation=True,
        return_tensors="pt",
    )["input_ids"]
    with torch.no_grad():  # causal, and pooled at the end mark: padding needs no mask
        return clip(ids.to(device_of(clip))).pooler_output
