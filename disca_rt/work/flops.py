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
from ..cache.stand_in import WHOLE, PairShares, Place, StandIn
from ..config import DiTConfig, PredictorConfig
from ..models.layers import TIMESTEP_FREQUENCIES


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
    """FLOPs of a sample by `plans`; `text_tokens` of each pass, which are two under CFG.

    Drafts that were given up count as well, without what a step has once: its vector and text.
    """
    passes = [PassFlops(dit, latent_shape, each) for each in text_tokens]
    return sum(
        forward.planned(policy, plan, number)
        + sum(forward.drafted(policy, each, number) for each in plan.given_up)
        for plan in plans
        for number, forward in enumerate(passes)
    )


class PassFlops:
    """Counts what runs in one pass over latents (C, T, H, W) and `text` tokens.

    `timed` is what the scalars of a step and the text decide alone, `ends` with that all outside of
    blocks.
    """

    def __init__(self, dit: DiTConfig, latent_shape: tuple[int, int, int, int], text: int) -> None:
        self._dit, self._img, self._txt = dit, image_tokens(dit, latent_shape), text
        self._grid = _grid(dit, latent_shape)
        self._groups = 1 + dit.token_replace  # of rows that are modulated alike
        self.timed = _timed_flops(dit, text)
        self._embed = self.timed + _patches_flops(dit, latent_shape)
        self.ends = self._embed + _head_flops(dit, latent_shape)

    def drafted(self, policy: Policy, draft: StepPlan, number: int) -> int:
        """FLOPs of pass `number` by a draft that was given up, beside what its step has once."""
        return max(0, self.planned(policy, draft, number) - self.timed)

    def planned(self, policy: Policy, plan: StepPlan, number: int) -> int:
        """FLOPs of pass `number` by `plan`, with those of blocks that ran for probes in vain."""
        acts = policy.acts_in(number, plan.passes[number])
        probed = plan.probed[number] if plan.probed else None
        in_vain = set(range(probed or 0))
        skips = {"velocity"} if number == 0 else {"velocity", "guidance"}
        stands, some = (
            [slot for slot, act in zip(policy.slots, acts, strict=True) if act == kind]
            for kind in (Act.STAND_IN, Act.REFRESH)
        )
        keeping = [
            (slot, act)
            for slot, act in zip(policy.slots, acts, strict=True)
            if act in (Act.KEEP, Act.CHECK) and slot.site.level == "attention"
        ]
        if any(slot.site.level in skips for slot in stands):
            return 0 if probed is None else self._embed + sum(map(self.block, in_vain))
        total = self.ends
        for do, start, stop, slot in program(policy.slots, acts, self._blocks).instructions:
            if do is Do.RUN:
                total += sum(
                    self.block(i, _at(stands, i), _at(some, i)) + self._kept_pairs(i, keeping)
                    for i in range(start, stop)
                )
                in_vain -= set(range(start, stop))
            elif do is Do.REFRESH:
                stand_in = policy.slots[slot].stand_in
                rows = stand_in.row_count(WHOLE, self._img)
                total += sum(self.some_rows(i, rows) for i in range(start, stop))
                total += stand_in.matrices * _linear(self._img, self._dit.hidden, self._dit.hidden)
            elif do in (Do.STAND_IN, Do.CHECK):
                total += self._value(policy.slots[slot].stand_in)
        return total + sum(map(self.block, in_vain))

    @property
    def _blocks(self) -> int:
        return self._dit.double + self._dit.single

    def block(self, index: int, stands: Sequence[Slot] = (), some: Sequence[Slot] = ()) -> int:
        """FLOPs of a block without the branches that slots `stands` replace.

        Of those that slots `some` are at, only the rows count that these compute anew.
        """
        if index < self._dit.double:
            return self._double(index, stands, some)
        return self._single(index, stands, some)

    def some_rows(self, index: int, img: int) -> int:
        """FLOPs of a block on `img` image rows and all text, which attend to all rows."""
        hidden, rows, own = self._dit.hidden, self._img + self._txt, img + self._txt
        is_double = index < self._dit.double
        fixed = _linear(self._groups + is_double, hidden, 3 * (1 + is_double) * hidden)
        by_row = self.block(index) - fixed - _attention(rows, hidden)
        return fixed + by_row * own // rows + _attention(rows, hidden) * own // rows

    def _value(self, stand_in: StandIn) -> int:
        """FLOPs of a stand-in's value at blocks: of its network, or its matrices on all rows."""
        hidden, network = self._dit.hidden, stand_in.network
        products = stand_in.matrices * _linear(self._img + self._txt, hidden, hidden)
        return products + (0 if network is None else self.network(network))

    def network(self, predictor: PredictorConfig) -> int:
        """FLOPs of a DisCa predictor: its fusion and its blocks."""
        tokens, hidden = self._img + self._txt, self._dit.hidden
        block = self.block(self._dit.double if predictor.block_kind == "single" else 0)
        return _linear(tokens, 3 * hidden, hidden) + predictor.depth * block

    def _double(self, index: int, stands: Sequence[Slot], some: Sequence[Slot]) -> int:
        hidden = self._dit.hidden
        total, attends = _linear(self._groups + 1, hidden, 6 * hidden), False
        for stream, rows in (("img", self._img), ("txt", self._txt)):
            if not _is_replaced(stands, index, f"{stream}_attn"):
                total += _linear(rows, hidden, hidden)
                attends = True
            if not _is_replaced(stands, index, f"{stream}_mlp"):
                fresh = _fresh_rows(some, (index, f"{stream}_mlp"), rows)
                total += _linear(fresh, hidden, 2 * self._dit.mlp_ratio * hidden)
        return total + (self._attention(index, stands) if attends else 0)

    def _single(self, index: int, stands: Sequence[Slot], some: Sequence[Slot]) -> int:
        hidden, tokens, ratio = self._dit.hidden, self._img + self._txt, self._dit.mlp_ratio
        total = _linear(self._groups, hidden, 3 * hidden)
        if _is_replaced(stands, index, "total"):
            return total
        fresh = _fresh_rows(some, (index, "mlp"), tokens)
        halves = (
            ("attn", hidden, self._attention(index, stands)),
            ("mlp", ratio * hidden, _linear(fresh, hidden, ratio * hidden)),
        )
        for name, width, flops in halves:
            if _is_replaced(stands, index, f"{name}_part"):
                continue
            total += _linear(tokens, width, hidden)
            total += 0 if _is_replaced(stands, index, name) else flops
        return total

    def _attention(self, index: int, stands: Sequence[Slot]) -> int:
        """Q, K, V and both products of joint attention, for the pairs that are computed."""
        tokens, hidden = self._img + self._txt, self._dit.hidden
        shares = (self._shares(slot).value for slot in stands if slot.site.attends(index))
        products = next(shares, 1.0) * _attention(tokens, hidden)
        return _linear(tokens, hidden, 3 * hidden) + round(products)

    def _kept_pairs(self, index: int, keeping: Sequence[tuple[Slot, Act]]) -> int:
        """The pairs that slots compute in block `index` to keep something, or to check."""
        shares = [
            self._shares(slot).keep if act == Act.KEEP else self._shares(slot).value
            for slot, act in keeping
            if slot.site.attends(index)
        ]
        return round(sum(shares) * _attention(self._img + self._txt, self._dit.hidden))

    def _shares(self, slot: Slot) -> PairShares:
        return slot.stand_in.pair_shares(self._grid, self._txt)


def _at(stands: Sequence[Slot], block: int) -> list[Slot]:
    """Those of `stands` that are at a block."""
    return [slot for slot in stands if slot.site.start <= block < slot.site.stop]


def _is_replaced(stands: Sequence[Slot], block: int, branch: str) -> bool:
    return any(slot.site.has(block, branch) for slot in stands)


def _fresh_rows(some: Sequence[Slot], place: Place, rows: int) -> int:
    """The rows of `rows` that are computed at a branch."""
    for site, stand_in in some:
        if site.has(*place):
            return stand_in.row_count(place, rows)
    return rows


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


def _patches_flops(dit: DiTConfig, latent_shape: tuple[int, int, int, int]) -> int:
    p, q, r = dit.patch
    return _linear(image_tokens(dit, latent_shape), dit.embed_channels * p * q * r, dit.hidden)


def _timed_flops(dit: DiTConfig, text: int) -> int:
    """The modulation vector and the refined text."""
    hidden = dit.hidden
    timestep = _linear(1, TIMESTEP_FREQUENCIES, hidden) + _linear(1, hidden, hidden)
    embedders = 1 + dit.meanflow + dit.guidance_embed + 1  # the last one is the refiner's
    refiner = _linear(text, dit.text_dim, hidden)  # input_embedder
    refiner += _linear(1, dit.text_dim, hidden) + _linear(1, hidden, hidden)  # c_embedder
    block = _linear(text, hidden, 12 * hidden) + _attention(text, hidden)
    refiner += dit.refiner * (block + _linear(1, hidden, 2 * hidden))
    return embedders * timestep + refiner


def _head_flops(dit: DiTConfig, latent_shape: tuple[int, int, int, int]) -> int:
    p, q, r = dit.patch
    img = image_tokens(dit, latent_shape)
    modulation = _linear(1, dit.hidden, 2 * dit.hidden)
    return modulation + _linear(img, dit.hidden, dit.in_channels * p * q * r)
