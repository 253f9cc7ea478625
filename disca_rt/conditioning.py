"""The conditioning of a sample, as text and image encoders give it.

`Conditioning` is the typed object that travels from the encoders (or a file) to a model, which
checks it and turns it into `Prepared` once per sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from .config import DiTConfig

IMAGE_LATENTS = "cond_latents", "first_frame_latents"


@dataclass(frozen=True)
class Conditioning:
    """Encoder outputs of a batch of `B` samples; masks are 1 for valid, 0 for padding.

    HunyuanVideo 1.0: `text_states [B, L, text_dim]`, `text_mask [B, L]` and
    `text_states_2 [B, text_dim_2]` (pooled). HunyuanVideo 1.5: `text_states`, `text_mask`, glyph
    tokens `byt5_text_states [B, L', byt5_dim]` with `byt5_text_mask [B, L']` and
    `vision_states [B, V, vision_dim]` (all zero: text-to-video).

    A first frame is given as scaled latents, in the one way that the model learnt. In
    `cond_latents [B, K, T, H, W]` where it takes K more channels than latents have: the frame with
    zeros after it, and in 1.5 and 1.0's latent-concat model (not in SkyReels') a mask, 1 where
    frames are given. In `first_frame_latents [B, C, 1, H, W]` where it is kept as the sample's
    first frame (1.0's token replace; where the checkpoint does not say that its model learnt this,
    the field may be left out).
    """

    text_states: Tensor
    text_mask: Tensor
    text_states_2: Tensor | None = None
    byt5_text_states: Tensor | None = None
    byt5_text_mask: Tensor | None = None
    vision_states: Tensor | None = None
    cond_latents: Tensor | None = None
    first_frame_latents: Tensor | None = None

    def __post_init__(self) -> None:
        for name, tensor in self.tensors().items():
            if not isinstance(tensor, Tensor):
                raise ValueError(f"{name} must be a tensor, got a {type(tensor).__name__}")

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

    def mixed_into(self, noise: Tensor, share: float) -> Tensor:
        """`noise [B, C, T, H, W]` with a `share` of the given first frame in each frame.

        HunyuanVideo 1.0 begins so from an image, with 0.001, for a steadier video. ValueError where
        no frame is given.
        """
        if self.first_frame_latents is not None:
            first = self.first_frame_latents
        elif self.cond_latents is not None:
            first = self.cond_latents[:, : noise.shape[1], :1]
        else:
            raise ValueError("a share of the image needs a conditioning with one; leave it out")
        return noise * (1 - share) + first.to(noise) * share

    def repeated(self, batch: int) -> "Conditioning":
        """`batch` times the only row of each tensor, as views."""
        rows = {name: t.expand(batch, *t.shape[1:]) for name, t in self.tensors().items()}
        return replace(self, **rows)

    def rows(self, rows: slice) -> "Conditioning":
        """The samples of a slice, as views."""
        return replace(self, **{name: t[rows] for name, t in self.tensors().items()})

    def to(self, device: torch.device | str) -> "Conditioning":
        """Copy every tensor to `device`."""
        return replace(self, **{name: t.to(device) for name, t in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Fields that are not None, by name."""
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
        for name, shape in self._shapes(config, batch, latent_shape).items():
            tensor = getattr(self, name)
            is_optional = name == "first_frame_latents" and not config.token_replace
            if tensor is None and shape is not None and not is_optional:
                raise ValueError(f"conditioning lacks {prefix}{name}, which this model needs")
            if tensor is not None and shape is None:
                whose = f"which a {config.family} of {config.inputs} does not take"
                raise ValueError(f"conditioning has {prefix}{name}, {whose}")
            if tensor is not None and not _fits(tensor.shape, shape):
                wanted = f"[{', '.join(map(str, shape))}]"
                if name in IMAGE_LATENTS and latent_shape is not None:
                    wanted += ", as large as the latents"
                raise ValueError(f"{prefix}{name} must be {wanted}, got {list(tensor.shape)}")
        self._check_values(prefix)

    def without_padding_values(self) -> "Conditioning":
        """Put zeros into padded rows of text where they hold values that are not finite.

        Padding is never attended to, so that it changes nothing, but NaN times a weight of zero is
        still NaN. A mask that does not fit its states is left for `validate`.
        """
        cleaned = {}
        for name in ("text", "byt5_text"):
            states, mask = getattr(self, f"{name}_states"), getattr(self, f"{name}_mask")
            if states is None or mask is None or states.shape[:-1] != mask.shape:
                continue
            if not torch.isfinite(states).all():
                cleaned[f"{name}_states"] = states.masked_fill(~mask.bool()[..., None], 0)
        return replace(self, **cleaned) if cleaned else self

    def _shapes(
        self, config: DiTConfig, batch: int, latent_shape: Sequence[int] | None
    ) -> dict[str, Sequence[int | str] | None]:
        """Shape of every field, a letter for any size; None where the model has no such input."""
        glyphs = self.byt5_text_states
        frames, *sides = (latent_shape or "BCTHW")[2:]
        first = (batch, config.in_channels, 1, *sides)
        shapes = {
            "text_states": (batch, "L", config.text_dim),
            "text_mask": self.text_states.shape[:2],
            "text_states_2": (batch, config.text_dim_2),
            "byt5_text_states": (batch, "L", config.byt5_dim),
            "byt5_text_mask": (None,) if glyphs is None else glyphs.shape[:2],
            "vision_states": (batch, "V", config.vision_dim),
            "cond_latents": (batch, config.condition_channels or None, frames, *sides),
            "first_frame_latents": first if config.takes_first_frame else (None,),
        }
        return {name: None if None in shape else shape for name, shape in shapes.items()}

    def _check_values(self, prefix: str) -> None:
        for name, tensor in self.tensors().items():
            if name.endswith("_mask") and not ((tensor == 0) | (tensor == 1)).all():
                raise ValueError(f"{prefix}{name} must hold 1 for valid and 0 for padding")
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                way_out = "re-encode the prompt"
                raise ValueError(f"{prefix}{name} has values that are not finite; {way_out}")
        if (self.text_mask.sum(1) == 0).any():
            valid = "at least one valid token in every sample"
            raise ValueError(f"{prefix}text_mask must leave {valid}")


def _fits(shape: Sequence[int], wanted: Sequence[int | str]) -> bool:
    pairs = zip(shape, wanted, strict=False)
    return len(shape) == len(wanted) and all(isinstance(w, str) or n == w for n, w in pairs)
