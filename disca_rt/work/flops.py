"""How many floating-point operations a forward, a predicted step and a whole sample take.

Counts every matrix product and both products of attention, two operations per multiply-add;
elementwise work (a few per mille) is left out, as in the papers.
"""

from typing import NamedTuple

from ..config import DiTConfig, PredictorConfig
from ..models.layers import TIMESTEP_FREQUENCIES
from ..models.token_refiner import REFINER_DEPTH
from ..schedule import Schedule


class StepFlops(NamedTuple):
    """Of one sample (batch 1): a `full` step, a `predicted` one, and embed and head alone."""

    full: int
    predicted: int
    ends: int

    def cheap(self, policy: str) -> int:
        """A step that is not full: a predicted one of disca, of other caches embed and head."""
        return {"full": self.full, "disca": self.predicted}.get(policy, self.ends)


def step_flops(
    dit: DiTConfig,
    predictor: PredictorConfig,
    latent_shape: tuple[int, int, int, int],
    text_tokens: int,
) -> StepFlops:
    """FLOPs of both kinds of step for latents (C, T, H, W) and `text_tokens` valid tokens."""
    ends = _embed_flops(dit, latent_shape, text_tokens) + _head_flops(dit, latent_shape)
    img = image_tokens(dit, latent_shape)
    blocks = _double_flops(dit.hidden, img, text_tokens) * dit.double
    blocks += _single_flops(dit.hidden, img + text_tokens) * dit.single
    fusion = 2 * 3 * (img + text_tokens) * dit.hidden**2
    predicted = predictor.depth * (
        _single_flops(dit.hidden, img + text_tokens)
        if predictor.block_kind == "single"
        else _double_flops(dit.hidden, img, text_tokens)
    )
    return StepFlops(full=ends + blocks, predicted=ends + fusion + predicted, ends=ends)


def sample_flops(
    step: StepFlops, schedule: Schedule, passes: int = 1, policy: str = "disca"
) -> int:
    """FLOPs of a sample; `passes` is 2 under classifier-free guidance, else 1."""
    full = schedule.full_steps
    return passes * (full * step.full + (schedule.steps - full) * step.cheap(policy))


def image_tokens(dit: DiTConfig, latent_shape: tuple[int, int, int, int]) -> int:
    """Patches of latents (C, T, H, W)."""
    _, t, h, w = latent_shape
    p, q, r = dit.patch
    return (t // p) * (h // q) * (w // r)


def _linear(rows: int, fan_in: int, fan_out: int) -> int:
    return 2 * rows * fan_in * fan_out


def _attention(tokens: int, hidden: int) -> int:
    return 4 * tokens**2 * hidden  # QKᵀ and PV


def _double_flops(hidden: int, img: int, txt: int) -> int:
    tokens = img + txt
    modulation = 2 * _linear(1, hidden, 6 * hidden)
    return _linear(tokens, hidden, 12 * hidden) + modulation + _attention(tokens, hidden)


def _single_flops(hidden: int, tokens: int) -> int:
    modulation = _linear(1, hidden, 3 * hidden)
    return _linear(tokens, hidden, 12 * hidden) + modulation + _attention(tokens, hidden)


def _embed_flops(dit: DiTConfig, latent_shape: tuple[int, int, int, int], text: int) -> int:
    p, q, r = dit.patch
    hidden = dit.hidden
    patches = _linear(image_tokens(dit, latent_shape), dit.embed_channels * p * q * r, hidden)
    timestep = _linear(1, TIMESTEP_FREQUENCIES, hidden) + _linear(1, hidden, hidden)
    embedders = 1 + dit.meanflow + dit.guidance_embed + 1  # the last one is the refiner's
    refiner = _linear(text, dit.text_dim, hidden)  # input_embedder
    refiner += _linear(1, dit.text_dim, hidden) + _linear(1, hidden, hidden)  # c_embedder
    block = _linear(text, hidden, 12 * hidden) + _attention(text, hidden)
    refiner += REFINER_DEPTH * (block + _linear(1, hidden, 2 * hidden))
    return patches + embedders * timestep + refiner


def _head_flops(dit: DiTConfig, latent_shape: tuple[int, int, int, int]) -> int:
    p, q, r = dit.patch
    img = image_tokens(dit, latent_shape)
    modulation = _linear(1, dit.hidden, 2 * dit.hidden)
    return modulation + _linear(img, dit.hidden, dit.in_channels * p * q * r)
