"""States of a language model at hidden_states[-3]; the two layers after them are not run."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .prompts import Batch

UNREAD = 2  # last layers: the DiTs read hidden_states[-(2 + 1)], before any final norm


def cut(model: nn.Module) -> nn.Module:
    """Copy of `model` that shares its weights and ends where its states are read.

    `model` is transformers' LlamaModel, Qwen2_5_VLTextModel or alike; one without its final norm
    is cut already, and is given back. The copy's `last_hidden_state` is the `hidden_states[-3]` of
    the whole. ValueError for a model without layers to cut.
    """
    if isinstance(getattr(model, "norm", None), nn.Identity):
        return model
    layers = getattr(model, "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) < UNREAD or not hasattr(model, "norm"):
        kind = type(model).__name__
        raise ValueError(f"text encoder must be a LlamaModel or a Qwen2_5_VLTextModel, got {kind}")
    shorter = copy.copy(model)
    shorter._modules = dict(model._modules)  # copy.copy shares the dict itself
    shorter.layers = nn.ModuleList(layers[:-UNREAD])
    shorter.norm = nn.Identity()
    shorter.config = copy.deepcopy(model.config)
    shorter.config.num_hidden_layers = len(layers) - UNREAD
    return shorter


def device_of(module: nn.Module) -> torch.device:
    """Device of a module's weights."""
    return next(module.parameters()).device


def rows_of(model: nn.Module) -> int:
    """Number of tokens that a network embeds."""
    return model.get_input_embeddings().weight.shape[0]


def token_states(
    model: nn.Module,
    batch: Batch,
    *,
    runs_padding: bool,
    embed: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """States `[B, L, D]` of a batch's tokens, on the model's device and in its dtype.

    Padding on the right changes no other token of a causal model: unless `runs_padding`, columns
    that are padding in every row are not run, and their states are zero. `embed` gives embeddings
    `[B, L, D]` of ids in place of the model's own, as LLaVA does, which also counts no padding.
    """
    ids, mask = (tensor.to(device_of(model)) for tensor in batch)
    length = ids.shape[1] if runs_padding else int(mask.sum(1).max())
    run, seen = ids[:, :length], mask[:, :length]
    with torch.no_grad():
        inputs = {"input_ids": run} if embed is None else _embedded(embed(run), seen)
        states = model(**inputs, attention_mask=seen, use_cache=False).last_hidden_state
    return extended(states, ids.shape[1])


def _embedded(states: Tensor, mask: Tensor) -> dict[str, Tensor]:
    positions = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)
    return {"inputs_embeds": states, "position_ids": positions}


def extended(states: Tensor, length: int) -> Tensor:
    """States `[B, L, D]` with rows of zeros up to `length` in all."""
    return nn.functional.pad(states, (0, 0, 0, length - states.shape[1]))
