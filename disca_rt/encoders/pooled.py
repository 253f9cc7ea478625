"""The pooled state of a prompt by CLIP, the second text that HunyuanVideo 1.0 reads."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .language import device_of, rows_of

LENGTH = 77


def check_clip(clip: nn.Module, tokenizer: Any) -> None:
    """Raise ValueError for a tokenizer that is not CLIP's."""
    known, rows = len(tokenizer), rows_of(clip)
    if known > rows:
        way_out = "load that of clip-vit-large-patch14"
        raise ValueError(f"tokenizer_2 has {known} tokens, and CLIP {rows}; {way_out}")


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
