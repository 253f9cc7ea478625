"""HunyuanVideo 1.5: image and text to video, double-stream blocks only, four kinds of condition."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..attention.protocol import Attention
from ..conditioning import Conditioning
from ..config import DiTConfig
from ..kernels.ops import Ops
from .dit import DiT, StepInputs
from .layers import ByT5Mapper, VisionProjection
from .prepared import Prepared, ValidTokens, drop_padding

LLM, BYT5, VISION = 0, 1, 2  # rows of `cond_type_embedding`


class HunyuanVideo15(DiT):
    def __init__(self, config: DiTConfig, ops: Ops, attention: Attention) -> None:
        super().__init__(config, ops, attention)
        self.byt5_in = ByT5Mapper(config.byt5_dim, config.byt5_hidden, config.hidden)
        self.vision_in = VisionProjection(config.vision_dim, config.hidden)
        # A given weight keeps torch._dynamo out: initialising one on meta imports it, 2 to 3 s.
        rows = torch.empty(3, config.hidden)
        self.cond_type_embedding = nn.Embedding(3, config.hidden, _weight=rows)

    def prepare(
        self, conditioning: Conditioning, latent_shape: Sequence[int], text_multiple: int = 1
    ) -> Prepared:
        conditioning = conditioning.to(self.device)
        conditioning.validate(self.config, latent_shape)
        grid = self.token_grid(latent_shape)
        tokens, token_lengths, _ = self._condition_tokens(conditioning, text_multiple)
        states, text_lengths, text_counts = drop_padding(
            conditioning.text_states, conditioning.text_mask, text_multiple
        )
        given = tokens, token_lengths, states, text_lengths
        order, lengths, counts = _valid_first(*given, text_multiple)
        freqs_cos, freqs_sin = self._rope.of(grid, self.device)
        pooled = conditioning.text_states_2
        return Prepared(
            text_states=states.to(self.dtype),
            text_lengths=text_lengths,
            pooled=None if pooled is None else self.vector_in(pooled.to(self.dtype)),
            condition_tokens=tokens,
            order=order,
            cond_latents=self.cond_latents(conditioning),
            lengths=None if lengths is None else lengths + len(freqs_cos),
            freqs_cos=freqs_cos,
            freqs_sin=freqs_sin,
            grid=grid,
            text_counts=text_counts,
            counts=counts and tuple(len(freqs_cos) + count for count in counts),
        )

    def _condition_tokens(self, conditioning: Conditioning, multiple: int) -> ValidTokens:
        """Vision then byT5 tokens `[B, L, C]`, embedded: they do not depend on t."""
        vision, byt5 = conditioning.vision_states, conditioning.byt5_text_states
        # Text-to-video is saved as all-zero vision states: those tokens are padding.
        has_image = vision.flatten(1).any(dim=1, keepdim=True)
        vision_mask = has_image.expand(vision.shape[:2])
        tokens = torch.cat(
            [
                self.vision_in(vision.to(self.dtype)) + self.cond_type_embedding.weight[VISION],
                self.byt5_in(byt5.to(self.dtype)) + self.cond_type_embedding.weight[BYT5],
            ],
            dim=1,
        )
        mask = torch.cat([vision_mask, conditioning.byt5_text_mask.bool()], dim=1)
        return drop_padding(tokens, mask, multiple)

    def modulation_vector(self, step: StepInputs, prepared: Prepared) -> Tensor:
        vec = self.time_in(step.timestep)
        if prepared.pooled is not None:
            vec = vec + prepared.pooled
        if self.config.guidance_embed:
            vec = vec + self.guidance_in(step.guidance)
        if self.config.meanflow:
            vec = vec + self.time_r_in(step.timestep_r)  # a sum here, an average in 1.0
        return vec

    def text_tokens(self, refined: Tensor, prepared: Prepared) -> Tensor:
        llm = refined + self.cond_type_embedding.weight[LLM]
        txt = torch.cat([prepared.condition_tokens, llm], dim=1)
        if prepared.order is None:
            return txt
        return txt.gather(1, prepared.order[:, :, None].expand(-1, -1, txt.shape[-1]))


def _valid_first(
    tokens: Tensor,
    token_lengths: Tensor | None,
    txt: Tensor,
    text_lengths: Tensor | None,
    multiple: int,
) -> tuple[Tensor | None, Tensor | None, tuple[int, ...] | None]:
    """The order `[B, L]` that puts the valid tokens of [condition, text] first, and their counts.

    All None where no sample has padding. Padding beyond the longest sample is cut.
    """
    if token_lengths is None and text_lengths is None:
        return None, None, None
    mask = torch.cat([_length_mask(tokens, token_lengths), _length_mask(txt, text_lengths)], dim=1)
    index = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    order, lengths, counts = drop_padding(index[:, :, None], mask, multiple)
    return order[:, :, 0], lengths, counts


def _length_mask(tokens: Tensor, lengths: Tensor | None) -> Tensor:
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    if lengths is None:
        lengths = torch.full((tokens.shape[0],), tokens.shape[1], device=tokens.device)
    return positions < lengths[:, None]
