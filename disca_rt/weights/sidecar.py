"""The `config.json` beside a checkpoint: what its tensors cannot tell, and a check on what they do.

Only the RoPE axes are taken from it, and how an image is given. Sizes it gives must agree with the
tensors. It may use our key names, diffusers' or the authors'; keys it does not know are ignored,
and so is the variant, because several checkpoints of one size may share a folder.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import DiTConfig
from ..models.rope import ROPE_THETA
from .checkpoint import read_json_object
from .errors import CheckpointError

ROPE_KEYS = ("rope", "rope_axes_dim", "rope_dim_list")

# DiTConfig attribute -> its names: ours, the authors', diffusers'
SIZE_KEYS: dict[str, tuple[str, ...]] = {
    "hidden": ("hidden", "hidden_size"),
    "heads": ("heads", "heads_num", "num_attention_heads"),
    "head_dim": ("attention_head_dim",),
    "double": ("double", "mm_double_blocks_depth", "num_layers"),
    "single": ("single", "mm_single_blocks_depth", "num_single_layers"),
    "text_dim": ("text_dim", "text_states_dim", "text_embed_dim"),
    "text_dim_2": ("text_dim_2", "pooled_projection_dim"),
    "byt5_dim": ("byt5_dim", "text_embed_2_dim"),
    "byt5_hidden": ("byt5_hidden",),
    "vision_dim": ("vision_dim", "image_embed_dim"),
    "in_channels": ("in_channels", "out_channels"),
    "embed_channels": ("embed_channels",),
}

# What a damaged file could not be told from, were it read from the tensors.
COUNT_KEYS: dict[str, tuple[str, ...]] = {
    "refiner": ("refiner", "num_refiner_layers"),
    "mlp_ratio": ("mlp_ratio", "mlp_width_ratio"),
}
IMAGE_KEYS = "image_condition_type", "i2v_condition_type"  # diffusers', the authors'
TOKEN_REPLACE = "token_replace"  # their value; a name of ours for a bool

# What this runtime takes only some values of. A file with another is of another model, which its
# tensors may not show: it must not be advised away.
SUPPORTED: dict[str, tuple[Any, ...]] = {
    "rope_theta": (None, ROPE_THETA),
    TOKEN_REPLACE: (None, False, True),
} | {key: (None, "latent_concat", TOKEN_REPLACE) for key in IMAGE_KEYS}


@dataclass(frozen=True)
class Sidecar:
    path: Path
    content: dict[str, Any]

    @property
    def rope(self) -> tuple[int, int, int] | None:
        """RoPE axes (t, h, w) or None; raises CheckpointError where they are not three integers."""
        for key in ROPE_KEYS:
            axes = self.content.get(key)
            if axes is not None:
                return self._axes(key, axes)
        return None

    def count(self, field: str) -> int:
        """Number `field` of a DiT, which its tensors do not tell; CheckpointError for no number."""
        for key in COUNT_KEYS[field]:
            value = self.content.get(key)
            if value is None:
                continue
            if not isinstance(value, int | float) or not 1 <= value == int(value):
                raise CheckpointError(
                    f"{self.path}: {key} must be a whole number from 1, got {value!r}"
                )
            return int(value)
        return getattr(DiTConfig, field)

    @property
    def token_replace(self) -> bool:
        """True where the model takes a clean first frame among the latents."""
        by_type = any(self.content.get(key) == TOKEN_REPLACE for key in IMAGE_KEYS)
        return by_type or self.content.get(TOKEN_REPLACE) is True

    def check(self, config: DiTConfig) -> None:
        """Raise CheckpointError listing sizes that contradict the tensors or are unsupported."""
        odd = [f"{key} is {self.content[key]}" for key in SUPPORTED if not self._is_supported(key)]
        if odd:
            raise CheckpointError(
                f"{self.path} is of a model that is not supported: {', '.join(odd)}; give the "
                "checkpoint of another"
            )
        wrong = [
            f"{key} is {value}, the tensors say {getattr(config, field)}"
            for field, key, value in self._sizes()
            if value not in _accepted(config, field)
        ]
        patch, family = self.content.get("patch"), self.content.get("family")
        if patch is not None and patch != list(config.patch):
            wrong.append(f"patch is {patch}, the tensors say {list(config.patch)}")
        if family is not None and family != config.family:
            wrong.append(f"family is {family}, the tensors say {config.family}")
        if wrong:
            raise CheckpointError(
                f"{self.path} is not of the checkpoint beside it: {'; '.join(wrong)}; "
                "put the checkpoint's own there"
            )

    def _is_supported(self, key: str) -> bool:
        return self.content.get(key) in SUPPORTED[key]

    def _sizes(self) -> list[tuple[str, str, int]]:
        found = []
        for field, keys in SIZE_KEYS.items():
            for key in keys:
                value = self.content.get(key)
                if value is None:
                    continue
                if not _is_int(value):
                    raise CheckpointError(f"{self.path}: {key} must be an integer, got {value!r}")
                found.append((field, key, value))
        return found

    def _axes(self, key: str, axes: Any) -> tuple[int, int, int]:
        if not isinstance(axes, list) or len(axes) != 3 or not all(map(_is_axis, axes)):
            raise CheckpointError(
                f"{self.path}: {key} must be three even numbers (t, h, w), got {axes!r}"
            )
        return axes[0], axes[1], axes[2]


def read_sidecar(folder: Path) -> Sidecar | None:
    """The `config.json` in `folder`, or None."""
    path = folder / "config.json"
    return Sidecar(path, read_json_object(path)) if path.is_file() else None


def meanflow_doubt(folder: Path, dit: DiTConfig) -> str:
    """The reason why the predictor in `folder`, which fits `dit`, may continue it badly, or "".

    The published predictors continue MeanFlow models, and their tensors do not tell. `config.json`
    beside one may say that it was trained for another model.
    """
    sidecar = read_sidecar(folder)
    if dit.meanflow or (sidecar is not None and sidecar.content.get("meanflow") is False):
        return ""
    return (
        f"DisCa's predictors continue MeanFlow models, and the DiT is a {dit.variant} one; expect "
        "worse videos than from the DiT that it was trained with"
    )


def _accepted(config: DiTConfig, field: str) -> tuple[Any, ...]:
    if field == "in_channels":  # diffusers counts the condition latents of 1.5 too
        return config.in_channels, config.embed_channels
    return (getattr(config, field),)


def _is_axis(value: Any) -> bool:
    return _is_int(value) and value > 0 and value % 2 == 0


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
