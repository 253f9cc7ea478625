"""The floating-point operations of a forward, a predicted step and a whole sample.

Counts every matrix product and both products of attention, two operations per multiply-add;
elementwise work (a few per mille) is left out, as in the papers.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from ..cache.plan import Act, StepPlan
from ..cache.policy import Policy, Slot
from ..cache.program import Do, program
from ..config import DiTConfig, PredictorConfig
from ..models.layers import TIMESTEP_FREQUENCIES

Acting = Sequence[tuple[Slot, Act]]
"""Slots with their acts in a pass."""


class StepFlops(NamedTuple):
    """One sample's (batch 1) `full` step, a DisCa-`predicted` one, and embed and head alone."""

    full: int
    predicted: int
    ends: int


def step_flops(
    dit: DiTConfig,
    predictor: PredictorConfig,
    latent_shape: tuple[int, int, int, int],
    text_tokens: int,
) -> StepFlops:
    """FLOPs of a pass over latents (C, T, H, W) and `text_tokens` valid tokens."""
    forward = PassFlops(dit, latent_shape, text_tokens)
    blocks = sum(map(forward.block, range(dit.double + dit.single)))
    return StepFlops(forward.ends + blocks, forward.ends + forward.network(predictor), forward.ends)


def sample_flops(
    policy: Policy,
    plans: Sequence[StepPlan],
    dit: DiTConfig,
    latent_shape: tuple[int, int, int, int],
    text_tokens: Sequence[int],
) -> int:
    """FLOPs of a sample by `plans`; `text_tokens` of each pass, which are two under CFG."""
    passes = [PassFlops(dit, latent_shape, each) for each in text_tokens]
    return sum(
        forward.planned(policy, plan, number)
        for plan in plans
        for number, forward in enumerate(passes)
    )


class PassFlops:
    """Counts what runs in one pass over latents (C, T, H, W) and `text` tokens."""

    def __init__(self, dit: DiTConfig, latent_shape: tuple[int, int, int, int], text: int) -> None:
        self._dit, self._img, self._txt = dit, image_tokens(dit, latent_shape), text
        self._grid = _grid(dit, latent_shape)
        self._groups = 1 + dit.token_replace  # of rows that are modulated alike
        self._embed = _embed_flops(dit, latent_shape, text)
        self.ends = self._embed + _head_flops(dit, latent_shape)

    def planned(self, policy: Policy, plan: StepPlan, number: int) -> int:
        """FLOPs of pass `number` by `plan`, with those of blocks that ran for probes in vain."""
        acts, probed = plan.passes[number], plan.probed[number] if plan.probed else None
        in_vain = set(range(probed or 0))
        skips = {"velocity"} if number == 0 else {"velocity", "guidance"}
        acting = list(zip(policy.slots, acts, strict=True))
        if any(act == Act.STAND_IN and slot.site.level in skips for slot, act in acting):
            return 0 if probed is None else self._embed + sum(map(self.block, in_vain))
        total = self.ends
        for do, start, stop, slot in program(policy.slots, acts, self._blocks).instructions:
            if do is Do.RUN:
                total += sum(self.block(i, acting) for i in range(start, stop))
                in_vain -= set(range(start, stop))
            elif do in (Do.STAND_IN, Do.CHECK):
                network = policy.slots[slot].stand_in.network
                total += 0 if network is None else self.network(network)
        return total + sum(map(self.block, in_vain))

    @property
    def _blocks(self) -> int:
        return self._dit.double + self._dit.single

    def block(self, index: int, acting: Acting = ()) -> int:
        """FLOPs of a block without what slots replace, with what they attend to themselves."""
        if index < self._dit.double:
            return self._double(index, acting)
        return self._single(index, acting)

    def network(self, predictor: PredictorConfig) -> int:
        """FLOPs of a DisCa predictor: its fusion and its blocks."""
        tokens, hidden = self._img + self._txt, self._dit.hidden
        block = self.block(self._dit.double if predictor.block_kind == "single" else 0)
        return _linear(tokens, 3 * hidden, hidden) + predictor.depth * block

    def _double(self, index: int, acting: Acting) -> int:
        hidden = self._dit.hidden
        total, attends = _linear(self._groups + 1, hidden, 6 * hidden), False
        for stream, rows in (("img", self._img), ("txt", self._txt)):
            if not _is_replaced(acting, index, f"{stream}_attn"):
                total += _linear(rows, hidden, hidden)
                attends = True
            if not _is_replaced(acting, index, f"{stream}_mlp"):
                total += _linear(rows, hidden, 2 * self._dit.mlp_ratio * hidden)
        return total + (self._attention(index, acting) if attends else 0)

    def _single(self, index: int, acting: Acting) -> int:
        hidden, tokens = self._dit.hidden, self._img + self._txt
        total = _linear(self._groups, hidden, 3 * hidden)
        if _is_replaced(acting, index, "total"):
            return total
        total += _linear(tokens, (1 + self._dit.mlp_ratio) * hidden, hidden)
        if not _is_replaced(acting, index, "mlp"):
            total += _linear(tokens, hidden, self._dit.mlp_ratio * hidden)
        if _is_replaced(acting, index, "attn"):
            return total
        return total + self._attention(index, acting)

    def _attention(self, index: int, acting: Acting) -> int:
        """Q, K, V and both products of joint attention, for the pairs that are computed."""
        tokens, hidden = self._img + self._txt, self._dit.hidden
        products = round(self._pairs(index, acting) * _attention(tokens, hidden))
        return _linear(tokens, hidden, 3 * hidden) + products

    def _pairs(self, index: int, acting: Acting) -> float:
        """The pairs of query and key that block `index` computes, over all there are."""
        values, extra = [], 0.0
        for (site, stand_in), act in acting:
            if act != Act.RUN and site.attends(index):
                value, keep = stand_in.pair_shares(self._grid, self._txt)
                extra += {Act.KEEP: keep, Act.CHECK: value, Act.STAND_IN: 0.0}[act]
                values += [value] * (act == Act.STAND_IN)
        return (values[0] if values else 1.0) + extra


def _is_replaced(acting: Acting, block: int, branch: str) -> bool:
    return any(act == Act.STAND_IN and slot.site.has(block, branch) for slot, act in acting)


def image_tokens(dit: DiTConfig, latent_shape: tuple[int, int, int, int]) -> int:
    """Patches of latents (C, T, H, W)."""
    return math.prod(_grid(dit, latent_shape))


def _grid(dit: DiTConfig, latent_shape: tuple[int, int, int, int]) -> tuple[int, int, int]:
    _, t, h, w = latent_shape
    p, q, r = dit.patch
    return t // p, h // q, w // r


def _linear(rows: int, fan_in: int, fan_out: int) -> int:
    return 2 * rows * fan_in * fan_out


def _attention(tokens: int, hidden: int) -> int:
    return 4 * tokens**2 * hidden  # QKᵀ and PV


def _embed_flops(dit: DiTConfig, latent_shape: tuple[int, int, int, int], text: int) -> int:
    p, q, r = dit.patch
    hidden = dit.hidden
    patches = _linear(image_tokens(dit, latent_shape), dit.embed_channels * p * q * r, hidden)
    timestep = _linear(1, TIMESTEP_FREQUENCIES, hidden) + _linear(1, hidden, hidden)
    embedders = 1 + dit.meanflow + dit.guidance_embed + 1  # the last one is the refiner's
    refiner = _linear(text, dit.text_dim, hidden)  # input_embedder
    refiner += _linear(1, dit.text_dim, hidden) + _linear(1, hidden, hidden)  # c_embedder
    block = _linear(text, hidden, 12 * hidden) + _attention(text, hidden)
    refiner += dit.refiner * (block + _linear(1, hidden, 2 * hidden))
    return patches + embedders * timestep + refiner


def _head_flops(dit: DiTConfig, latent_shape: tuple[int, int, int, int]) -> int:
    p, q, r = dit.patch
    img = image_tokens(dit, latent_shape)
    modulation = _linear(1, dit.hidden, 2 * dit.hidden)
    return modulation + _linear(img, dit.hidden, dit.in_channels * p * q * r)
