"""What a sample is conditioned on, as the text and image encoders give it.

`Conditioning` is the typed object that travels from the encoders (or a file) to a model, which
checks it and turns it into `Prepared` once per sample.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from .config import DiTConfig


@dataclass(frozen=True)
class Conditioning:
    """Encoder outputs of a batch of `B` samples; masks are 1 for valid, 0 for padding.

    HunyuanVideo 1.0: `text_states [B, L, text_dim]`, `text_mask [B, L]` and
    `text_states_2 [B, text_dim_2]` (pooled). HunyuanVideo 1.5: `text_states`, `text_mask`, glyph
    tokens `byt5_text_states [B, L', byt5_dim]` with `byt5_text_mask [B, L']`,
    `vision_states [B, V, vision_dim]` (all zero: text-to-video) and
    `cond_latents [B, C + 1, T, H, W]` (condition latents and their mask channel).
    """

    text_states: Tensor
    text_mask: Tensor
    text_states_2: Tensor | None = None
    byt5_text_states: Tensor | None = None
    byt5_text_mask: Tensor | None = None
    vision_states: Tensor | None = None
    cond_latents: Tensor | None = None

    @property
    def batch(self) -> int:
        return self.text_states.shape[0]

    @property
    def tokens(self) -> int:
        """Valid ones of every kind, of the sample that has most."""
        counts = self.text_mask.bool().sum(1)
        if self.byt5_text_mask is not None:
            counts = counts + self.byt5_text_mask.bool().sum(1)
        if self.vision_states is not None:  # all zero: no image, and its tokens are padding
            has_image = self.vision_states.flatten(1).any(dim=1)
            counts = counts + has_image * self.vision_states.shape[1]
        return int(counts.max())

    def to(self, device: torch.device | str) -> "Conditioning":
        return replace(self, **{name: t.to(device) for name, t in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are there, by name."""
        present = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: tensor for name, tensor in present.items() if tensor is not None}

    def validate(self, config: DiTConfig) -> None:
        """Raise ValueError naming the first field that does not fit the model."""
        for name, expected in _expected_widths(config).items():
            tensor = getattr(self, name)
            if expected is None and tensor is not None:
                raise ValueError(f"conditioning has {name}, which a {config.family} does not take")
            if expected is not None:
                _check_states(name, tensor, expected, self.batch)
        _check_mask("text_mask", self.text_mask, self.text_states)
        if (self.text_mask.sum(1) == 0).any():
            raise ValueError("text_mask must leave at least one valid token in every sample")
        if self.byt5_text_states is not None:
            _check_mask("byt5_text_mask", self.byt5_text_mask, self.byt5_text_states)
        _check_cond_latents(self.cond_latents, config, self.batch)
        for name, tensor in self.tensors().items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ValueError(f"{name} has values that are not finite; re-encode the prompt")


def _expected_widths(config: DiTConfig) -> dict[str, int | None]:
    return {
        "text_states": config.text_dim,
        "text_states_2": config.text_dim_2,
        "byt5_text_states": config.byt5_dim,
        "vision_states": config.vision_dim,
    }


def _check_states(name: str, tensor: Tensor | None, width: int, batch: int) -> None:
    ndim = 2 if name == "text_states_2" else 3
    if tensor is None:
        raise ValueError(f"conditioning lacks {name}, which this model needs")
    if tensor.ndim != ndim or tensor.shape[0] != batch or tensor.shape[-1] != width:
        wanted = f"[{batch}, L, {width}]" if ndim == 3 else f"[{batch}, {width}]"
        raise ValueError(f"{name} must be {wanted}, got {list(tensor.shape)}")


def _check_mask(name: str, mask: Tensor | None, states: Tensor) -> None:
    if mask is None or mask.shape != states.shape[:2]:
        got = None if mask is None else list(mask.shape)
        raise ValueError(f"{name} must be {list(states.shape[:2])}, got {got}")
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"{name} must hold 1 for valid and 0 for padding, got other values")


def _check_cond_latents(cond_latents: Tensor | None, config: DiTConfig, batch: int) -> None:
    channels = config.embed_channels - config.in_channels
    if channels == 0 and cond_latents is not None:
        raise ValueError(f"conditioning has cond_latents, which a {config.family} does not take")
    if channels == 0:
        return
    if cond_latents is None:
        raise ValueError("conditioning lacks cond_latents, which this model needs")
    if cond_latents.ndim != 5 or cond_latents.shape[:2] != (batch, channels):
        wanted = f"[{batch}, {channels}, T, H, W]"
        raise ValueError(f"cond_latents must be {wanted}, got {list(cond_latents.shape)}")
