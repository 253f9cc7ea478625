"""A sample under given plans, written out without the engine: the oracle of its results."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor

from disca_rt.attention.protocol import Attention, AttentionInputs, With
from disca_rt.cache.plan import Act, StepPlan
from disca_rt.cache.policy import Policy
from disca_rt.cache.site import Site
from disca_rt.cache.stand_ins.adams_bashforth import AdamsBashforth
from disca_rt.cache.stand_ins.aligned import Aligned
from disca_rt.cache.stand_ins.drawn_rows import Expanded
from disca_rt.cache.stand_ins.fed import Fed
from disca_rt.cache.stand_ins.frequency_bands import FrequencyBands, patchify
from disca_rt.cache.stand_ins.last_two import LastTwo
from disca_rt.cache.stand_ins.less_noise import LessNoise
from disca_rt.cache.stand_ins.reuse import Reuse
from disca_rt.cache.stand_ins.scaled_change import ScaledChange
from disca_rt.models.branches import Compute
from disca_rt.models.dit import DiT, StepInputs
from disca_rt.models.prepared import Prepared
from disca_rt.models.stream import Branch, PendingSum, materialise
from disca_rt.schedule import Schedule
from disca_rt.tokens import StepContext, Vector, groups, with_groups
from forecast_oracle import FORECASTS, forecast


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
        self.grid = prepared[0].grid, self.dit.config.patch
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
            latents = latents + velocity * (step.sigma_next - step.sigma) * plan.scale
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
                block((PendingSum(tokens),), context, Hook(self, number, index, context)), block.ops
            )
        return tokens

    def slots(self, site: Site, number: int) -> list[int]:
        return [
            i
            for i, (each, _) in enumerate(self.policy.slots)
            if each.level == site.level
            and (site.level != "blocks" or each.start == site.start)
            and (site.level != "branch" or each == site)
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
        if act == Act.REFRESH:
            kept[-1] = kept[-1][0], self.with_fresh(kept[-1][1], compute(), context, place), None
        self.given = self.plan.given_to(number)
        return self.value(self.policy.slots[slots[0]].stand_in, kept, entering, context)

    def with_fresh(
        self, value: Tensor, computed: Tensor, context: StepContext, place: tuple[int, str]
    ) -> Tensor:
        """`value` with those rows of `computed` that its stand-in draws."""
        (stand_in,) = (each for site, each in self.policy.slots if site.has(*place))
        first = context.layout.img_len if place[1].startswith("txt") else 0
        rows = range(first, first + value.shape[1])
        drawn = sorted(
            range(value.shape[1]), key=lambda i: -hashed(stand_in.seed, self.step, place, rows[i])
        )
        value = value.clone()
        for row in drawn[: stand_in.row_count(place, value.shape[1])]:
            value[:, row] = computed[:, row]
        return value

    def value(self, stand_in, kept: list, entering: Tensor | None, context) -> Tensor:
        if isinstance(stand_in, Reuse):
            _, value, before = kept[-1]
            return value if stand_in.form == "output" else entering + (value - before)
        if isinstance(stand_in, Expanded):
            stand_in = stand_in.taylor
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
        if isinstance(stand_in, FrequencyBands):
            return self.in_bands(stand_in, kept[-1], entering)
        if isinstance(stand_in, LastTwo):
            return self.from_last_two(stand_in, kept)
        history = [(step, value) for step, value, _ in kept]
        if isinstance(stand_in, Fed):
            cached = forecast(stand_in.feed, history, self.step, context)
            return stand_in.predictor(entering, cached, context)
        if type(stand_in) in FORECASTS:
            return forecast(stand_in, history, self.step, context)
        return stand_in.predictor(entering, kept[-1][1], context)

    def in_bands(self, stand_in: FrequencyBands, last: tuple, entering: Tensor) -> Tensor:
        step, unconditional, conditional = last
        spectra = [
            torch.fft.fftshift(torch.fft.fft2(self.dit.ops.unpatchify(each, *self.grid)), (-2, -1))
            for each in (entering, unconditional - conditional)
        ]
        height, width = spectra[0].shape[-2:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        is_low = (y - height // 2) ** 2 + (x - width // 2) ** 2 <= (min(height, width) // 5) ** 2
        low, high = (
            alpha ** (self.step - step)
            for alpha in (stand_in.alpha_low_frequency, stand_in.alpha_high_frequency)
        )
        spectrum = spectra[0] + torch.where(is_low, low, high) * spectra[1]
        velocity = torch.fft.ifft2(torch.fft.ifftshift(spectrum, (-2, -1))).real
        return patchify(velocity, self.grid[1])

    def from_last_two(self, stand_in: LastTwo, kept: list) -> Tensor:
        """Both programs' cache of two outputs, step by step."""
        computed, last = {step: value for step, value, _ in kept}, []
        for step in range(kept[0][0], self.step + 1):
            if step in computed:
                last = [*last[-1:], computed[step]] if last else [computed[step]] * 2
            value = last[1] + stand_in.attention_weight * (last[1] - last[0])
            if step not in computed and stand_in.last_two == "all":
                last = [last[1], value]
        return value

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
        error = kept[-2][1] - velocity
        for each in range(step, self.step):
            error = error * stand_in.gamma[each if len(stand_in.gamma) > 1 else 0]
        spectrum = torch.fft.fft2(error)
        for i, j in product(*map(range, error.shape[-2:])):
            h, w = (
                min(n, size - n) / size for n, size in zip((i, j), error.shape[-2:], strict=True)
            )
            is_low = max(h, w) <= stand_in.cutoff / 2  # 1/2 is the largest
            spectrum[..., i, j] *= (self.given or (1, 0))[not is_low]
        return velocity - torch.fft.ifft2(spectrum).real


def hashed(seed: int, step: int, place: tuple[int, str], row: int) -> int:
    """A row's score, in Python's whole numbers (see `cache/row_draws.py`)."""
    number = 1000 * place[0] + sum(place[1].encode())
    x = seed * 0x9E3779B1 + step * 0x85EBCA6B + number * 0xC2B2AE35 + row * 0x27D4EB2F
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x %= 2**32
        x = (x ^ (x >> shift)) * factor
    return x % 2**32


class Hook:
    """The slots on branches of one block."""

    def __init__(self, oracle: Oracle, number: int, index: int, context: StepContext) -> None:
        self.oracle, self.number, self.index, self.context = oracle, number, index, context
        self.names = {*(name for site, _ in oracle.policy.slots for name in site.names)}

    def around(self, attention: Attention) -> Attention:
        attends = any(slot.site.attends(self.index) for slot in self.oracle.policy.slots)
        return With(attention, self.attend) if attends else attention

    def attend(self, inputs: AttentionInputs) -> Tensor:
        compute = inputs.to_all_keys
        return self.oracle.at(Site("attention"), self.number, compute, None, place=self.index)

    def __call__(self, name: str, compute: Compute, gate: Vector | None = None) -> Branch:
        branch_sites = [s.site for s in self.oracle.policy.slots if s.site.has(self.index, name)]
        if not branch_sites:
            return Branch(compute(), gate)
        place = self.index, name
        at = partial(self.oracle.at, branch_sites[0], self.number)
        value = at(compute, None, self.context, place)
        if branch_sites[0].gated:
            old = at(lambda: groups(gate, 2), None, place=(*place, "gate"))
            gate = with_groups(gate, old)
        return Branch(value, gate)
