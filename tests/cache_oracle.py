"""A sample under given plans, written out without the engine: the oracle of its results."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor

from disca_rt.attention.protocol import AttentionInputs
from disca_rt.cache.plan import Act, StepPlan
from disca_rt.cache.policy import Policy
from disca_rt.cache.site import Site
from disca_rt.cache.stand_ins.adams_bashforth import AdamsBashforth
from disca_rt.cache.stand_ins.aligned import Aligned
from disca_rt.cache.stand_ins.damped_foca import DampedFoCa
from disca_rt.cache.stand_ins.late_taylor import LateTaylor
from disca_rt.cache.stand_ins.less_noise import LessNoise
from disca_rt.cache.stand_ins.polynomial import Taylor
from disca_rt.cache.stand_ins.reuse import Reuse
from disca_rt.cache.stand_ins.scaled_change import ScaledChange
from disca_rt.models.dit import DiT, StepInputs
from disca_rt.models.prepared import Prepared
from disca_rt.models.stream import PendingSum, materialise
from disca_rt.schedule import Schedule
from disca_rt.tokens import StepContext


class Oracle:
    """Keeps lists of (step, value, entering) by pass, slot and place."""

    def __init__(self, dit: DiT, policy: Policy, scale: float) -> None:
        self.dit, self.policy, self.scale = dit, policy, scale
        self.kept: dict[tuple, list[tuple[int, Tensor, Tensor | None]]] = {}

    def sample(
        self,
        schedule: Schedule,
        plans: Sequence[StepPlan],
        latents: Tensor,
        prepared: Sequence[Prepared],
        guidance: Tensor | None,
    ) -> Tensor:
        for step, plan in zip(schedule, plans, strict=True):
            self.step, self.plan = step.index, plan
            t, r = (torch.tensor([x] * len(latents)) for x in (step.t, step.r))
            inputs = StepInputs(t, r if self.dit.config.meanflow else None, guidance)
            velocity = self.at(
                Site("velocity"),
                0,
                lambda x=latents, i=inputs: self.guided(x, i, prepared),
                latents,
            )
            latents = latents + velocity * (step.sigma_next - step.sigma)
            if prepared[0].first is not None:
                latents[:, :, :1] = prepared[0].first.latents
        return latents

    def guided(self, latents: Tensor, inputs: StepInputs, prepared: Sequence[Prepared]) -> Tensor:
        first, *others = (
            lambda n=number, p=each: self.patches(n, latents, inputs, p)
            for number, each in enumerate(prepared)
        )
        patches = first().float()
        if others:
            uncond = self.at(Site("guidance"), 1, lambda: others[0]().float(), patches)
            patches = uncond + self.scale * (patches - uncond)
        return self.dit.unpatchify(patches, prepared[0])

    def patches(
        self, number: int, latents: Tensor, inputs: StepInputs, prepared: Prepared
    ) -> Tensor:
        tokens, context = self.dit.embed(latents, inputs, prepared)
        return self.dit.head(self.blocks(number, tokens, context, 0), context)

    def blocks(self, number: int, tokens: Tensor, context: StepContext, index: int) -> Tensor:
        """Block by block; a slot over a range takes the place of the blocks of its range."""
        blocks = self.dit.blocks
        while index < len(blocks):
            here = self.slots(Site("blocks", index), number)
            if here:
                site = self.policy.slots[here[0]].site
                compute = partial(self.run, number, tokens, context, site.start, site.stop)
                tokens, index = self.at(site, number, compute, tokens, context), site.stop
            else:
                tokens, index = self.run(number, tokens, context, index, index + 1), index + 1
        return tokens

    def run(
        self, number: int, tokens: Tensor, context: StepContext, start: int, stop: int
    ) -> Tensor:
        for index in range(start, stop):
            block = self.dit.blocks[index]
            tokens = materialise(
                block((PendingSum(tokens),), context, Hook(self, number, index)), block.ops
            )
        return tokens

    def slots(self, site: Site, number: int) -> list[int]:
        return [
            i
            for i, (each, _) in enumerate(self.policy.slots)
            if each.level == site.level
            and (site.level != "blocks" or each.start == site.start)
            and self.plan.passes[number][i] != Act.RUN
        ]

    def at(
        self,
        site: Site,
        number: int,
        compute: Callable[[], Tensor],
        entering: Tensor | None,
        context: StepContext | None = None,
        place: object = None,
    ) -> Tensor:
        slots = self.slots(site, number)
        if not slots:
            return compute()
        act = self.plan.passes[number][slots[0]]
        kept = self.kept.setdefault((number, slots[0], place), [])
        if act == Act.KEEP:
            kept.append((self.step, compute().clone(), entering))
            return kept[-1][1]
        if act == Act.CHECK:
            compute()
        self.given = self.plan.given_to(number)
        return self.value(self.policy.slots[slots[0]].stand_in, kept, entering, context)

    def value(self, stand_in, kept: list, entering: Tensor | None, context) -> Tensor:
        if isinstance(stand_in, Reuse):
            _, value, before = kept[-1]
            return value if stand_in.form == "output" else entering + (value - before)
        if isinstance(stand_in, ScaledChange):
            _, value, before = kept[-1]
            return entering + (self.given[0] if self.given else 1.0) * (value - before)
        if isinstance(stand_in, Aligned):
            changes = [value - before for _, value, before in (kept[-2:] * 2)[:2]]
            gamma = self.given[0] if self.given else 1.0
            return entering + changes[0] + gamma * (changes[1] - changes[0])
        if isinstance(stand_in, AdamsBashforth):
            return self.adams_bashforth(stand_in, {step: value for step, value, _ in kept})
        if isinstance(stand_in, LessNoise):
            return self.less_noise(stand_in, kept)
        if isinstance(stand_in, DampedFoCa):
            return damped_foca([(step, value) for step, value, _ in kept], self.step)
        if not isinstance(stand_in, Taylor):
            return stand_in.predictor(entering, kept[-1][1], context)
        factors: list[Tensor] = []
        before: int | None = None
        for step, value, _ in kept:
            newest = [value]
            first = stand_in.first if isinstance(stand_in, LateTaylor) else 0
            for factor in factors[: stand_in.order] if step >= first else ():
                newest.append((newest[-1] - factor) / (step - before))
            factors, before = newest, step
        distance = self.step - before
        return sum(
            stand_in.basis(i, distance) / math.factorial(i) * factor
            for i, factor in enumerate(factors)
        )

    def adams_bashforth(self, stand_in: AdamsBashforth, kept: dict[int, Tensor]) -> Tensor:
        if not stand_in.recursive:
            steps = [*kept][-stand_in.k :]
            powers = torch.tensor([[step**i for i in range(len(steps))] for step in steps])
            at = torch.tensor([float(self.step**i) for i in range(len(steps))])
            weights = torch.linalg.solve(powers.T.double(), at.double())
            return sum(weight * kept[step] for weight, step in zip(weights, steps, strict=True))
        values: list[Tensor] = []
        formulas = [(1,), (2, -1), (3, -3, 1)][: stand_in.k]
        for step in range(min(kept), self.step + 1):
            weights = formulas[min(len(values), len(formulas)) - 1]
            predicted = sum(w * v for w, v in zip(weights, reversed(values), strict=False))
            values.append(kept.get(step, predicted) if step < self.step else predicted)
        return values[-1]

    def less_noise(self, stand_in: LessNoise, kept: list) -> Tensor:
        step, velocity, _ = kept[-1]
        if len(kept) == 1:
            return velocity
        error = (kept[-2][1] - velocity) * stand_in.gamma ** (self.step - step)
        spectrum = torch.fft.fft2(error)
        for i, j in product(*map(range, error.shape[-2:])):
            h, w = (
                min(n, size - n) / size for n, size in zip((i, j), error.shape[-2:], strict=True)
            )
            is_low = max(h, w) <= stand_in.cutoff / 2  # 1/2 is the largest
            spectrum[..., i, j] *= (self.given or (1, 0))[not is_low]
        return velocity - torch.fft.ifft2(spectrum).real


def damped_foca(kept: list[tuple[int, Tensor]], last: int) -> Tensor:
    """cache-dit's FoCa, step by step from the first kept value to step number `last`."""
    computed, at = dict(kept), kept[0][0]
    full, values = [kept[0][1]], [kept[0][1]]
    for step in range(at + 1, last + 1):
        if step in computed:
            at, full = step, [*full, computed[step]]
            values.append(computed[step])
        elif len(full) > 1:
            reach, weight = min(step - at, 3) / 2, min(1, 3 / (step - at))
            slope = full[-1] - full[-2] + values[-1] - values[-2]
            values.append(full[-1] + weight * reach * slope)
    return values[-1]


class Hook:
    """The slots on branches of one block."""

    names = ("img_attn", "txt_attn", "img_mlp", "txt_mlp", "attn", "mlp", "total")

    def __init__(self, oracle: Oracle, number: int, index: int) -> None:
        self.oracle, self.number, self.index = oracle, number, index
        attends = any(slot.site.attends(index) for slot in oracle.policy.slots)
        self.instead = self.attend if attends else None

    def __call__(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        branch_sites = [s.site for s in self.oracle.policy.slots if s.site.has(self.index, name)]
        if not branch_sites:
            return compute()
        place = self.index, name
        return self.oracle.at(branch_sites[0], self.number, compute, None, place=place)

    def attend(self, inputs: AttentionInputs) -> Tensor:
        compute = inputs.to_all_keys
        return self.oracle.at(Site("attention"), self.number, compute, None, place=self.index)
