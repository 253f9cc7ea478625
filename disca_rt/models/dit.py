"""A HunyuanVideo DiT in the three pieces of a step: `embed`, the blocks, `head`.

What both models share. `prepare` runs once per sample, the rest at every step; a cache policy
replaces only what happens between `embed` and `head`. Knows no cache, graph or rank.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention.protocol import Attention
from ..conditioning import Conditioning
from ..config import DiTConfig
from ..kernels.ops import Ops
from ..tokens import RowVectors, StepContext, TokenLayout, Vector, of_text
from .blocks import DoubleStreamBlock, SingleStreamBlock, run_blocks
from .fp8_table import Fp8Table
from .layers import FinalLayer, MLPEmbedder, Modulation, PatchEmbed, TimestepEmbedder
from .prepared import Prepared
from .rope import RopeTables
from .token_refiner import TokenRefiner


class StepInputs(NamedTuple):
    """The scalars of one step, each `[B]` fp32 (guidance in the model's dtype).

    `timestep` and `timestep_r` are t and r in [0, 1000]; `timestep_r` is None unless the model is a
    MeanFlow one; `guidance` is 1000 · scale, None unless the model embeds it.
    """

    timestep: Tensor
    timestep_r: Tensor | None = None
    guidance: Tensor | None = None


class Timed(NamedTuple):
    """The part of a step that its scalars and a conditioning decide, whatever the latents are.

    `vec [B, C]` is the modulation vector, `text [B, L, C]` the refined text states, `modulations
    [B, N]` what all blocks make of `vec`; without it each block computes its own.
    """

    vec: Tensor
    text: Tensor
    modulations: Tensor | None = None


class DiT(nn.Module, ABC):
    """`config` gives the sizes, `ops` and `attention` the implementation.

    `fp8` says which layers are in FP8; None: none is.
    """

    fp8: Fp8Table | None = None

    def __init__(self, config: DiTConfig, ops: Ops, attention: Attention) -> None:
        super().__init__()
        self.config, self.ops, self.attention = config, ops, attention
        hidden, heads = config.hidden, config.heads
        self.img_in = PatchEmbed(config.embed_channels, hidden, config.patch)
        self.txt_in = TokenRefiner(ops, attention.local, config)
        self.time_in = TimestepEmbedder(hidden)
        if config.meanflow:
            self.time_r_in = TimestepEmbedder(hidden)
        if config.text_dim_2 is not None:
            self.vector_in = MLPEmbedder(config.text_dim_2, hidden)
        if config.guidance_embed:
            self.guidance_in = TimestepEmbedder(hidden)
        merged = config.traits.merged_qkv
        self.double_blocks = nn.ModuleList(
            DoubleStreamBlock(ops, attention, hidden, heads, merged, config.mlp_ratio)
            for _ in range(config.double)
        )
        if config.single:
            self.single_blocks = nn.ModuleList(
                SingleStreamBlock(ops, attention, hidden, heads, config.mlp_ratio)
                for _ in range(config.single)
            )
        self._modulations = _placed(self.blocks)
        self._rope = RopeTables(config.rope)
        p, q, r = config.patch
        self.final_layer = FinalLayer(ops, hidden, config.in_channels * p * q * r)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Blocks in order; each maps `(stream, context)` to a stream, of tokens `[B, S, C]`."""
        return [*self.double_blocks, *getattr(self, "single_blocks", ())]

    @property
    def dtype(self) -> torch.dtype:
        return self.final_layer.linear.bias.dtype

    @property
    def device(self) -> torch.device:
        return self.final_layer.linear.bias.device

    @abstractmethod
    def prepare(
        self, conditioning: Conditioning, latent_shape: Sequence[int], text_multiple: int = 1
    ) -> Prepared:
        """Compute what no step of a sample changes; `latent_shape` is `[B, C, T, H, W]`.

        Tokens of text are cut to the longest sample's, or to the next `text_multiple` with lengths
        for the device alone; see `drop_padding`.
        """

    @abstractmethod
    def modulation_vector(self, step: StepInputs, prepared: Prepared) -> Tensor:
        """The vector `[B, C]` of all rows but those of a clean first frame."""

    @abstractmethod
    def text_tokens(self, refined: Tensor, prepared: Prepared) -> Tensor:
        """Text tokens `[B, L', C]`, valid ones in front, of refined text states `[B, L, C]`."""

    def timed(self, step: StepInputs, prepared: Prepared) -> Timed:
        """The part of a step that does not depend on the latents."""
        self._check_step(step)
        text = self.txt_in(prepared.text_states, step.timestep, prepared.text_layout)
        return Timed(self.modulation_vector(step, prepared), text)

    def modulations(self, vec: Tensor) -> Tensor:
        """`vec [B, C]` -> `[B, N]`, the modulations of all blocks one after another."""
        return torch.cat([each.linear(F.silu(vec)) for each in self._modulations], dim=-1)

    def embed(
        self, latents: Tensor, step: StepInputs, prepared: Prepared
    ) -> tuple[Tensor, StepContext]:
        """Latents `[B, C, T, H, W]` of any float dtype -> joint tokens `[B, S, C]`, image first.

        A clean first frame takes the place of that of `latents`.
        """
        return self.embed_timed(latents, self.timed(step, prepared), prepared)

    def embed_timed(
        self, latents: Tensor, timed: Timed, prepared: Prepared
    ) -> tuple[Tensor, StepContext]:
        """`embed` of a step whose `timed` part has been computed."""
        vec: Vector = timed.vec
        if prepared.first is not None:
            latents = prepared.first.hold(latents)
            rows = prepared.grid[1] * prepared.grid[2]
            vec = RowVectors(torch.stack([prepared.first.vec, timed.vec], dim=1), (rows,))
        latents = latents.to(self.dtype)
        if prepared.cond_latents is not None:
            latents = torch.cat([latents, prepared.cond_latents], dim=1)
        tokens = self._joint(latents, self.text_tokens(timed.text, prepared), prepared.grid)
        rope = prepared.freqs_cos, prepared.freqs_sin
        layout = TokenLayout(
            len(rope[0]), prepared.lengths, grid=prepared.grid, counts=prepared.counts
        )
        return tokens, StepContext(vec, *rope, layout, timed.modulations)

    def _joint(self, latents: Tensor, text: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """The image tokens of `latents`, then `text`; written into one tensor where ops can."""
        rows = grid[0] * grid[1] * grid[2]
        joint = self.ops.buffer(text, (len(text), rows + text.shape[1], text.shape[2]))
        if joint is None or torch.is_grad_enabled():
            return torch.cat([self.img_in(latents), text], dim=1)
        self.img_in(latents, out=joint[:, :rows])
        joint[:, rows:] = text
        return joint

    def head(self, tokens: Tensor, context: StepContext) -> Tensor:
        """Joint tokens -> velocity patches `[B, S_img, C·p·q·r]` of the image rows at hand."""
        return self.final_layer(tokens[:, : context.layout.img_len], of_text(context.vec))

    def unpatchify(self, patches: Tensor, prepared: Prepared) -> Tensor:
        """Map all patches of a sample to its velocity `[B, C, T, H, W]`."""
        return self.ops.unpatchify(patches, prepared.grid, self.config.patch)

    def velocity(self, tokens: Tensor, context: StepContext, prepared: Prepared) -> Tensor:
        """Map all joint tokens to the velocity `[B, C, T, H, W]`: head, then unpatchify."""
        return self.unpatchify(self.head(tokens, context), prepared)

    def forward(self, latents: Tensor, step: StepInputs, prepared: Prepared) -> Tensor:
        """The velocity `[B, C, T, H, W]` at `latents`: a step without a cache, in one process."""
        tokens, context = self.embed(latents, step, prepared)
        return self.velocity(run_blocks(self.blocks, tokens, context), context, prepared)

    def cond_latents(self, conditioning: Conditioning) -> Tensor | None:
        """The channels that `img_in` takes behind the latents."""
        given = conditioning.cond_latents
        return None if given is None else given.to(self.dtype)

    def token_grid(self, latent_shape: Sequence[int]) -> tuple[int, int, int]:
        """(T, H, W) in patches of `[B, C, T, H, W]`; ValueError for other channels or sides."""
        if latent_shape[1] != self.config.in_channels:
            raise ValueError(
                f"latents must have {self.config.in_channels} channels, got {latent_shape[1]}"
            )
        return self.config.token_grid(latent_shape[2:])

    def _check_step(self, step: StepInputs) -> None:
        for name, needed in (
            ("timestep_r", self.config.meanflow),
            ("guidance", self.config.guidance_embed),
        ):
            if needed != (getattr(step, name) is not None):
                verb = "needs" if needed else "does not take"
                raise ValueError(f"this {self.config.variant} model {verb} {name}")


def _placed(blocks: Sequence[nn.Module]) -> tuple[Modulation, ...]:
    """The modulations of `blocks`, each with its place among all of them."""
    found = [each for block in blocks for each in block.children() if isinstance(each, Modulation)]
    at = 0
    for each in found:
        each.place = slice(at, at := at + each.linear.out_features)
    return tuple(found)
