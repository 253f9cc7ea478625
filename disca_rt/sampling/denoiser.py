"""The denoising stage: from noise and conditionings to clean latents, by a policy and a schedule.

It owns the buffers that policies keep tensors in; two of them in one process share nothing. Knows
no prompts, files or pixels.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ..cache.kept import SampleShape
from ..cache.plan import Setting
from ..cache.policy import Policy
from ..cache.remembered import forget
from ..cache.site import check_sites
from ..conditioning import Conditioning
from ..graphs.runner import GraphRunner
from ..instruments.stopwatch import Stopwatch
from ..models.dit import DiT
from ..models.prepared import Edit, Prepared
from ..schedule import Schedule
from ..sharding import Sharding
from .forward import Forward
from .guidance import Guidance, step_table
from .loop import Loop, StepEvent, Turn
from .probes import check_probe
from .sampler import Sampler, no_mark
from .state import SampleState, new_state

MAX_STATES = 4
TEXT_MULTIPLE = 64  # tokens: at 64,000 in all, half of it on average costs 0.05 % of a step


class Denoiser:
    """Samples with `dit`, over the ranks that its attention is over.

    A state belongs to one policy, batch, size and text length, and so do the captures that write
    into it. With `graphs` those of the last `max_states` shapes stay, otherwise the last one.
    `mark` names steps and their parts for a profiler.
    """

    def __init__(
        self,
        dit: DiT,
        graphs: GraphRunner | None = None,
        max_states: int = MAX_STATES,
    ) -> None:
        if max_states < 1:
            raise ValueError(f"max_states must be at least 1, got {max_states}")
        self.forward = Forward(dit)
        self.graphs, self.max_states = graphs, max_states
        self.mark = no_mark
        self._states: OrderedDict[tuple[Policy, SampleShape], SampleState] = OrderedDict()

    @property
    def dit(self) -> DiT:
        return self.forward.dit

    @property
    def sharding(self) -> Sharding:
        return self.forward.sharding

    def denoise(
        self,
        latents: Tensor,
        conditions: Sequence[Conditioning],
        *,
        schedule: Schedule,
        policy: Policy,
        guidance: Guidance,
        stopwatch: Stopwatch,
        on_step: Callable[[StepEvent], None] | None = None,
        cancel: threading.Event | None = None,
        per_sample: bool = False,
        edit: Edit | None = None,
    ) -> Tensor:
        """Clean latents from noise `latents [B, C, T, H, W]` fp32, of the same shape.

        `conditions`: one conditioning or, with `guidance.classifier_free`, the conditional and then
        the unconditional one. `on_step` is called after each step; `cancel`, once set, ends the
        sample with `Cancelled` before the next one. `per_sample`: the samples are run one after the
        other, each as if it was alone, so that a policy decides on each by itself. `edit`: the part
        of a given video that is made anew; `latents` are those to begin with.
        """
        rows = [slice(i, i + 1) for i in range(len(latents))] if per_sample else [slice(None)]
        done = []
        for number, row in enumerate(rows):
            mine = latents[row]
            with stopwatch.stage("conditioning"):
                prepared = [self.prepare(each.rows(row), mine.shape) for each in conditions]
                if edit is not None:
                    prepared[0] = prepared[0]._replace(edit=edit.of_samples(row))
            loop = self.loop(mine.shape, prepared, schedule, policy, guidance)
            done.append(loop.run(mine, stopwatch, on_step, cancel, Turn(number, len(rows))))
        return done[0] if len(done) == 1 else torch.cat(done)

    def prepare(self, conditioning: Conditioning, latent_shape: Sequence[int]) -> Prepared:
        """The part of a sample that no step changes, such that captures serve other texts too.

        Text is padded for that where the attention reads its lengths on the device.
        """
        dit = self.dit
        width = dit.config.hidden // dit.config.heads
        is_padded = self.graphs is not None and all(
            block.attention.takes_lengths(width, dit.dtype, dit.device) for block in dit.blocks
        )
        return dit.prepare(conditioning, latent_shape, TEXT_MULTIPLE if is_padded else 1)

    def loop(
        self,
        latent_shape: Sequence[int],
        prepared: Sequence[Prepared],
        schedule: Schedule,
        policy: Policy,
        guidance: Guidance,
    ) -> Loop:
        """The steps of a sample from latents `[B, C, T, H, W]` of `latent_shape`."""
        if len({each.first is None for each in prepared}) > 1:
            raise ValueError(
                "first_frame_latents must be in both conditionings or in none; give the negative "
                "one those of the other"
            )
        self._check_pairs(policy, prepared)
        setting = Setting(tuple(schedule), len(prepared), len(policy.slots))
        self.dit.attention.local.begin_sample()
        state = self.state(policy, self.shape(latent_shape, prepared, policy))
        scale = guidance.classifier_free
        sampler = Sampler(self.forward, policy, state, scale, self.mark)
        is_edit = prepared[0].edit is not None
        table = step_table(schedule, guidance, latent_shape[0], self.dit, is_edit)
        return Loop(sampler, setting, table, prepared, self.graphs)

    def check(self, policy: Policy, passes: int) -> None:
        """Raise ValueError where sites or probes of `policy` are none of this model's."""
        config = self.dit.config
        try:
            check_sites([slot.site for slot in policy.slots], config, passes)
            for probe in policy.probes(passes):
                check_probe(probe, policy, config.double + config.single, passes)
        except ValueError as error:
            raise ValueError(f"policy {policy.name}: {error}") from error

    def _check_pairs(self, policy: Policy, prepared: Sequence[Prepared]) -> None:
        """Raises ValueError where rows of both passes are paired that ranks share out unlike."""
        tokens = {each.tokens for each in prepared}
        if self.sharding.size == 1 or len(tokens) == 1:
            return
        slots = [slot for slot in policy.slots if slot.site.level != "attention"]  # all rows there
        if any(slot.stand_in.reads_other_pass for slot in slots):
            image = len(prepared[0].freqs_cos)
            texts = " and ".join(str(each.tokens - image) for each in prepared)
            raise ValueError(
                f"policy {policy.name} pairs text rows of both passes, which ranks share out alike "
                f"only where these are as many; got {texts}: use one rank, or texts of one length"
            )

    def shape(
        self,
        latent_shape: Sequence[int],
        prepared: Sequence[Prepared],
        policy: Policy | None = None,
    ) -> SampleShape:
        """The facts that buffers of a sample depend on; of attention where `policy` needs them."""
        image = len(prepared[0].freqs_cos)
        rows = tuple(self.sharding.share(image, each.tokens - image) for each in prepared)
        placed = self.dit.config, self.dit.dtype, self.dit.device
        attended = None
        if policy is not None and policy.slots_at("attention"):
            heads = self.dit.config.heads
            attended = tuple(
                (each.tokens, self.sharding.heads(heads, image, each.tokens - image))
                for each in prepared
            )
        return SampleShape(*placed, tuple(latent_shape), image, rows, attended)

    def state(self, policy: Policy, shape: SampleShape) -> SampleState:
        """Buffers for a sample: those of an earlier one of the same shape, if still here."""
        key, most = (policy, shape), 1 if self.graphs is None else self.max_states
        if key not in self._states:
            self.check(policy, len(shape.rows))
            while len(self._states) >= most:  # they go before new buffers come
                self._give_up(self._states.popitem(last=False)[1])
            with torch.inference_mode(False):  # what is made within it is not written outside
                self._states[key] = new_state(policy, shape)
        self._states.move_to_end(key)
        return self._states[key]

    def close(self) -> None:
        """Give up all states, the captures that write into them, and what policies remember."""
        while self._states:
            self._give_up(self._states.popitem()[1])
        forget()

    def _give_up(self, state: SampleState) -> None:
        if self.graphs is not None:
            self.graphs.drop(state)


def current_device(device: torch.device) -> AbstractContextManager:
    """Makes `device` the current one: events and kernel launches go there."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
