"""State of a sample between its steps: buffers on the device, and which steps filled them."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..cache.kept import SampleShape, allocate, looked_at
from ..cache.plan import Act, Probe, StepPlan, Stored
from ..cache.policy import Policy, Slot
from ..cache.remembered import remembered
from ..cache.stand_in import Beside


@dataclass
class SampleState:
    """`slots[pass][slot]` holds a slot's buffers by place.

    `probes` are tensors that probes compare with: the last one stored, then the one before that
    where a probe asks for it.
    """

    slots: Beside
    probes: dict[Stored, tuple[Tensor, ...]]

    def compared_with(self, probe: Probe) -> Tensor:
        """The tensor that `probe` compares with."""
        return self.probes[probe.stored][probe.against == "before"]


def new_state(policy: Policy, shape: SampleShape) -> SampleState:
    """Buffers for samples of `shape`."""
    probes = {
        stored: tuple(spec.zeros() for spec in of_steps)
        for stored, of_steps in looked_at(policy.probes(len(shape.rows)), shape)
    }
    return SampleState(allocate(policy, shape), probes)


KeptAt = tuple[tuple[tuple[int, ...], ...], ...]
"""The steps at which each slot of each pass has kept something, in order."""


def nothing_kept(policy: Policy, passes: int) -> KeptAt:
    """The `KeptAt` of a sample in which no step has run."""
    return (((),) * len(policy.slots),) * passes


def kept_after(kept_at: KeptAt, plan: StepPlan, step: int) -> KeptAt:
    """The `KeptAt` once step number `step` has run by `plan`."""
    return tuple(
        tuple(
            (*steps, step) if act == Act.KEEP else steps
            for steps, act in zip(of_slots, acts, strict=True)
        )
        for of_slots, acts in zip(kept_at, plan.passes, strict=True)
    )


@remembered(maxsize=64)
def known_numbers(policy: Policy, plans: tuple[StepPlan, ...]) -> list[list[float]]:
    """The slots' scalars of every step, where all plans are known."""
    kept_at, rows = nothing_kept(policy, len(plans[0].passes)), []
    for index, plan in enumerate(plans):
        rows.append(numbers(policy, kept_at, index, plan))
        kept_at = kept_after(kept_at, plan, index)
    return rows


def numbers(
    policy: Policy, kept_at: KeptAt, step: int, plan: StepPlan | None = None
) -> list[float]:
    """The scalars of step number `step`, in one list: `[pass][slot][scalar]`, flat.

    `plan` is that of the step, if it is known.
    """
    return [
        scalar
        for which_pass, of_slots in enumerate(kept_at)
        for slot, steps in zip(policy.slots, of_slots, strict=True)
        for scalar in slot.stand_in.numbers(steps, step, _given(policy, slot, plan, which_pass))
    ]


def _given(policy: Policy, slot: Slot, plan: StepPlan | None, which_pass: int) -> tuple[float, ...]:
    """The plan's scalars for a slot in a pass: none where they are of another kind."""
    is_meant = plan is not None and slot.stand_in.takes == policy.rule.gives != ""
    return plan.given_to(which_pass) if is_meant else ()


@remembered(maxsize=64)
def number_counts(policy: Policy) -> list[int]:
    """The number of scalars of each slot, the same in each pass."""
    return [len(slot.stand_in.numbers((), 0, ())) for slot in policy.slots]


def numbers_of_pass(
    numbers: Tensor | None, counts: Sequence[int], which_pass: int
) -> Sequence[Tensor | None]:
    """The scalars of each slot in a pass, views of all `numbers` of a step; None where it has none.

    `counts` are those of `number_counts`.
    """
    if numbers is None:
        return (None,) * len(counts)
    start = which_pass * sum(counts)
    return numbers[start : start + sum(counts)].split(counts)
