"""HunyuanVideo 1.0 (arXiv 2412.03603): base, cfg-distilled and MeanFlow variants."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..conditioning import Conditioning
from .dit import DiT, StepInputs
from .prepared import FirstFrame, Prepared, drop_padding


class HunyuanVideo(DiT):
    def prepare(
        self, conditioning: Conditioning, latent_shape: Sequence[int], text_multiple: int = 1
    ) -> Prepared:
        conditioning = conditioning.to(self.device)
        conditioning.validate(self.config, latent_shape)
        grid = self.token_grid(latent_shape)
        states, text_lengths, counts = drop_padding(
            conditioning.text_states, conditioning.text_mask, text_multiple
        )
        freqs_cos, freqs_sin = self._rope.of(grid, self.device)
        pooled = self.vector_in(conditioning.text_states_2.to(self.dtype))
        return Prepared(
            text_states=states.to(self.dtype),
            text_lengths=text_lengths,
            pooled=pooled,
            condition_tokens=None,
            order=None,
            cond_latents=self.cond_latents(conditioning),
            lengths=None if text_lengths is None else text_lengths + len(freqs_cos),
            freqs_cos=freqs_cos,
            freqs_sin=freqs_sin,
            grid=grid,
            first=self._first_frame(conditioning.first_frame_latents, pooled),
            text_counts=counts,
            counts=counts and tuple(len(freqs_cos) + count for count in counts),
        )

    def _first_frame(self, latents: Tensor | None, pooled: Tensor) -> FirstFrame | None:
        """A given first frame is at t = 0 in every step, and no guidance reaches its rows."""
        if latents is None:
            return None
        zeros = torch.zeros(len(pooled), dtype=torch.float32, device=self.device)
        return FirstFrame(latents.float(), self._time_vector(zeros, zeros) + pooled)

    def _time_vector(self, t: Tensor, r: Tensor | None) -> Tensor:
        vec = self.time_in(t)
        if self.config.meanflow:
            vec = (vec + self.time_r_in(r)) / 2  # an average here, a sum in 1.5
        return vec

    def modulation_vector(self, step: StepInputs, prepared: Prepared) -> Tensor:
        vec = self._time_vector(step.timestep, step.timestep_r) + prepared.pooled
        if self.config.guidance_embed:
            vec = vec + self.guidance_in(step.guidance)
        return vec

    def text_tokens(self, refined: Tensor, prepared: Prepared) -> Tensor:
        return refined
