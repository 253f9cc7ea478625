"""The sizes of a DiT and its predictor: frozen data, one table row per published model.

Field names are those of the `config.json` beside a checkpoint. Nothing here touches tensors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .family import FAMILIES, VIDEO_10, VIDEO_15, BlockKind, Family, Traits


@dataclass(frozen=True)
class DiTConfig:
    """Sizes of a HunyuanVideo DiT; the defaults are HunyuanVideo 1.0 base (13B).

    `embed_channels` are those of `img_in`: the latents', and behind them those of a condition (33
    with an image and its mask, 32 with an image alone); None is as many as `in_channels`. A model
    with `token_replace` takes a clean first frame among the latents instead, which its tensors do
    not tell. `rope` splits the head width over (t, h, w). `text_dim_2`, `byt5_dim`, `byt5_hidden`
    and `vision_dim` are None where the model has no such input.
    """

    family: Family = VIDEO_10.name
    in_channels: int = 16  # latent channels, in and out
    embed_channels: int = None  # type: ignore[assignment]  # always a number once built
    patch: tuple[int, int, int] = (1, 2, 2)
    hidden: int = 3072
    heads: int = 24
    double: int = 20
    single: int = 40
    rope: tuple[int, int, int] = (16, 56, 56)
    text_dim: int = 4096
    text_dim_2: int | None = 768
    byt5_dim: int | None = None
    byt5_hidden: int | None = None
    vision_dim: int | None = None
    guidance_embed: bool = False
    meanflow: bool = False  # takes r through `time_r_in`
    token_replace: bool = False
    refiner: int = 2  # blocks of the text refiner
    mlp_ratio: int = 4  # width of the blocks' MLPs over `hidden`

    def __post_init__(self) -> None:
        if self.embed_channels is None:
            object.__setattr__(self, "embed_channels", self.in_channels)
        if self.hidden % self.heads:
            raise ValueError(f"heads must divide hidden {self.hidden}, got {self.heads}")
        if sum(self.rope) != self.head_dim or any(axis % 2 for axis in self.rope):
            raise ValueError(
                f"rope must be three even numbers that add up to hidden/heads = {self.head_dim}, "
                f"got {self.rope}"
            )
        if self.token_replace and not self.takes_first_frame:
            raise ValueError(
                f"token_replace needs a {VIDEO_10.title} without condition channels and with "
                f"patches of one frame, got a {self.traits.title} with {self.condition_channels} "
                f"condition channels and patches of {self.patch[0]}"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def traits(self) -> Traits:
        """The row of its family."""
        return FAMILIES[self.family]

    @property
    def condition_channels(self) -> int:
        """The channels that `img_in` takes behind the latents' own."""
        return self.embed_channels - self.in_channels

    @property
    def takes_first_frame(self) -> bool:
        """True where a clean first frame may be given among the latents (token replace)."""
        is_plain = self.condition_channels == 0 and self.patch[0] == 1
        return self.traits.token_replace and is_plain

    @property
    def inputs(self) -> str:
        """The inputs of `img_in` in words, such as "16 latent + 16 image + 1 mask channels"."""
        more, latents = self.condition_channels, self.in_channels
        kinds = {0: "", latents: f" + {latents} image", latents + 1: f" + {latents} image + 1 mask"}
        said = f"{latents} latent{kinds.get(more, f' + {more} condition')} channels"
        return said + ", a clean first frame among them" * self.token_replace

    @property
    def patch_width(self) -> int:
        """Values of a velocity patch, the head's output."""
        return self.in_channels * math.prod(self.patch)

    def token_grid(self, sides: Sequence[int]) -> tuple[int, int, int]:
        """Sides (T, H, W) of latents in patches; ValueError for one that does not divide."""
        for name, side, patch in zip("THW", sides, self.patch, strict=True):
            if side % patch or side <= 0:
                raise ValueError(
                    f"latents' {name} must be a positive multiple of {patch}, got {side}"
                )
        t, h, w = (side // patch for side, patch in zip(sides, self.patch, strict=True))
        return t, h, w

    @property
    def layers(self) -> str:
        """The blocks in words."""
        parts = [f"{self.double} double-stream"]
        return " + ".join(parts + [f"{self.single} single-stream"] * bool(self.single))

    @property
    def variant(self) -> str:
        """Name of the variant: base, cfg-distilled or meanflow."""
        if self.meanflow:
            return "meanflow"
        return "cfg-distilled" if self.guidance_embed else "base"


@dataclass(frozen=True)
class PredictorConfig:
    """A DisCa predictor: as wide as its DiT, `depth` blocks of the kind its family ends with."""

    family: Family = VIDEO_10.name
    hidden: int = 3072
    heads: int = 24
    depth: int = 2

    @property
    def block_kind(self) -> BlockKind:
        return FAMILIES[self.family].last_blocks

    @property
    def layers(self) -> str:
        """The blocks in words."""
        return f"{self.depth} {self.block_kind}-stream"

    def differences(self, dit: DiTConfig) -> list[str]:
        """List why this predictor does not fit `dit`, a phrase each; empty where it fits."""
        return [
            f"{name} is {getattr(self, name)} in the predictor, {getattr(dit, name)} in the DiT"
            for name in ("family", "hidden", "heads")
            if getattr(self, name) != getattr(dit, name)
        ]


def predictor_config(dit: DiTConfig, depth: int = 2) -> PredictorConfig:
    """The predictor that fits `dit`."""
    return PredictorConfig(dit.family, dit.hidden, dit.heads, depth)


_VIDEO_10 = DiTConfig()
_VIDEO_15 = DiTConfig(
    family=VIDEO_15.name,
    in_channels=32,
    embed_channels=65,  # with condition latents and their mask
    patch=(1, 1, 1),
    hidden=2048,
    heads=16,
    double=54,
    single=0,
    text_dim=3584,
    text_dim_2=None,
    byt5_dim=1472,
    byt5_hidden=2048,
    vision_dim=1152,
)

MODELS: dict[str, DiTConfig] = {
    "hunyuan-video": _VIDEO_10,
    "hunyuan-video-cfgdistill": replace(_VIDEO_10, guidance_embed=True),
    "hunyuan-video-meanflow": replace(_VIDEO_10, guidance_embed=True, meanflow=True),
    "hunyuan-video-1.5": _VIDEO_15,
    "hunyuan-video-1.5-meanflow": replace(_VIDEO_15, meanflow=True),
}


def get_model_config(name: str) -> DiTConfig:
    """The row called `name`; raises ValueError listing the known names."""
    if name not in MODELS:
        raise ValueError(f"model must be one of {sorted(MODELS)}, got {name!r}")
    return MODELS[name]
