"""The conditioning of a sample, as text and image encoders give it.

`Conditioning` is the typed object that travels from the encoders (or a file) to a model, which
checks it and turns it into `Prepared` once per sample.
"""

from collections.abc import Sequence
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
        """Number of samples, B."""
        return self.text_states.shape[0]

    @property
    def tokens(self) -> int:
        """Number of valid tokens of every kind, in the sample that has most."""
        counts = self.text_mask.bool().sum(1)
        if self.byt5_text_mask is not None:
            counts = counts + self.byt5_text_mask.bool().sum(1)
        if self.vision_states is not None:  # all zero: no image, and its tokens are padding
            has_image = self.vision_states.flatten(1).any(dim=1)
            counts = counts + has_image * self.vision_states.shape[1]
        return int(counts.max())

    def checked_batch(self, prefix: str = "") -> int:
        """Number of samples; ValueError where `text_states` cannot say it."""
        if self.text_states.ndim != 3 or self.batch == 0:
            raise ValueError(
                f"{prefix}text_states must be [B, L, D], got {list(self.text_states.shape)}; give "
                "every tensor its dimension of samples, B, also where that is 1"
            )
        return self.batch

    def to(self, device: torch.device | str) -> "Conditioning":
        return replace(self, **{name: t.to(device) for name, t in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are there, by name."""
        present = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: tensor for name, tensor in present.items() if tensor is not None}

    def validate(
        self,
        config: DiTConfig,
        latent_shape: Sequence[int] | None = None,
        batch: int | None = None,
        prefix: str = "",
    ) -> None:
        """Raise ValueError for the first field that does not fit a model, its latents or `batch`.

        The line names the field (after `prefix`), its shape and the right one. `latent_shape` is
        `[B, C, T, H, W]` of the sample's latents, `batch` its number of samples; None: not checked.
        """
        batch = self.checked_batch(prefix) if batch is None else batch
        for name, width in _widths(config).items():
            _check_presence(prefix, name, getattr(self, name), config.family, width is not None)
            if width is not None:
                _check_states(prefix + name, getattr(self, name), width, batch)
        for name in ("text_mask", "byt5_text_mask"):
            states = getattr(self, name.replace("mask", "states"))
            _check_presence(prefix, name, getattr(self, name), config.family, states is not None)
            if states is not None:
                _check_mask(prefix + name, getattr(self, name), states.shape[:2])
        if (self.text_mask.sum(1) == 0).any():
            raise ValueError(
                f"{prefix}text_mask must leave at least one valid token in every sample"
            )
        self._check_cond_latents(config, latent_shape, batch, prefix)
        for name, tensor in self.tensors().items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ValueError(
                    f"{prefix}{name} has values that are not finite; re-encode the prompt"
                )

    def without_padding_values(self) -> "Conditioning":
        """The same with zeros in padded rows of text, where those hold values that are not finite.

        Padding is never attended to, so that it changes nothing, but NaN times a weight of zero is
        still NaN. Call it on a conditioning that fits its masks; others are given back as they are.
        """
        cleaned = {}
        for name in ("text", "byt5_text"):
            states, mask = getattr(self, f"{name}_states"), getattr(self, f"{name}_mask")
            if states is None or mask is None or states.shape[:-1] != mask.shape:
                continue
            if not torch.isfinite(states).all():
                cleaned[f"{name}_states"] = states.masked_fill(~mask.bool()[..., None], 0)
        return replace(self, **cleaned) if cleaned else self

    def _check_cond_latents(
        self, config: DiTConfig, latent_shape: Sequence[int] | None, batch: int, prefix: str
    ) -> None:
        given, name = self.cond_latents, f"{prefix}cond_latents"
        channels = config.embed_channels - config.in_channels
        _check_presence(prefix, "cond_latents", given, config.family, channels > 0)
        if given is None:
            return
        if given.ndim != 5 or given.shape[:2] != (batch, channels):
            wanted = f"[{batch}, {channels}, T, H, W]"
            raise ValueError(f"{name} must be {wanted}, got {list(given.shape)}")
        if latent_shape is not None and list(given.shape[2:]) != list(latent_shape[2:]):
            raise ValueError(
                f"{name} must be as large as the latents {list(latent_shape[2:])}, "
                f"got {list(given.shape[2:])}"
            )


def _widths(config: DiTConfig) -> dict[str, int | None]:
    return {
        "text_states": config.text_dim,
        "text_states_2": config.text_dim_2,
        "byt5_text_states": config.byt5_dim,
        "vision_states": config.vision_dim,
    }


def _check_presence(
    prefix: str, name: str, tensor: Tensor | None, family: str, is_needed: bool
) -> None:
    if tensor is None and is_needed:
        raise ValueError(f"conditioning lacks {prefix}{name}, which this model needs")
    if tensor is not None and not is_needed:
        raise ValueError(f"conditioning has {prefix}{name}, which a {family} does not take")


def _check_states(name: str, tensor: Tensor, width: int, batch: int) -> None:
    ndim = 2 if name.endswith("text_states_2") else 3
    wanted = f"[{batch}, L, {width}]" if ndim == 3 else f"[{batch}, {width}]"
    if tensor.ndim != ndim or tensor.shape[0] != batch or tensor.shape[-1] != width:
        raise ValueError(f"{name} must be {wanted}, got {list(tensor.shape)}")
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floats, got {tensor.dtype}")


def _check_mask(name: str, mask: Tensor, shape: torch.Size) -> None:
    if mask.shape != shape:
        raise ValueError(f"{name} must be {list(shape)}, got {list(mask.shape)}")
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"{name} must hold 1 for valid and 0 for padding, got other values")
