"""A policy: one rule, and the slots it decides on, each a stand-in at a site."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from .plan import Act, Probe, Setting, StepPlan
from .remembered import remembered
from .rule import Rule, known_plans
from .site import Site
from .stand_in import StandIn


class Slot(NamedTuple):
    """`stand_in` may take the place of what is computed at `site`."""

    site: Site
    stand_in: StandIn


@dataclass(frozen=True)
class Policy:
    """A rule, and the slots that it decides on.

    Hashable; equal policies do the same, and may have each other's buffers.
    """

    name: str
    rule: Rule
    slots: tuple[Slot, ...] = ()

    def __post_init__(self) -> None:
        for site, stand_in in self.slots:
            if site.level not in stand_in.levels:
                raise ValueError(
                    f"policy {self.name}: its stand-in ({_kind(stand_in)}) is for the level "
                    f"{' or '.join(stand_in.levels)}, and its places are at {site.level}; combine "
                    "methods of one level (disca-rt caches NAME tells what each stands in for)"
                )
        for i, j in combinations(range(len(self.slots)), 2):
            if self.slots[i].site.shares_branch(self.slots[j].site):
                raise ValueError(
                    f"policy {self.name}: slots {i} and {j} are at one branch; give each its own"
                )

    @property
    def depends_on_batch(self) -> bool:
        """True where a sample's result may depend on the others that are run with it."""
        return bool(self.rule.probes) or any(each.mixes_samples for _, each in self.slots)

    @remembered(maxsize=64)
    def known_plans(self, setting: Setting) -> tuple[StepPlan, ...] | None:
        """The plans of all steps, or None where they depend on what will be measured."""
        plans = known_plans(self.rule, setting)
        if plans is not None:
            check_plans(self, setting, plans)
        return plans

    def probes(self, passes: int) -> tuple[Probe, ...]:
        """The probes of its rule in a sample of so many passes: none of one that is not there."""
        return tuple(probe for probe in self.rule.probes if probe.which_pass < passes)

    def acts_in(self, which_pass: int, acts: tuple[Act, ...]) -> tuple[Act, ...]:
        """`acts` of pass number `which_pass`, where slots that have no place in it do nothing."""
        if all(site.only_pass in (None, which_pass) for site, _ in self.slots):
            return acts
        return tuple(
            act if site.only_pass in (None, which_pass) else Act.RUN
            for act, (site, _) in zip(acts, self.slots, strict=True)
        )

    def slots_at(self, *levels: str) -> list[int]:
        """Numbers of the slots at one of `levels`."""
        return [i for i, slot in enumerate(self.slots) if slot.site.level in levels]


def check_plans(policy: Policy, setting: Setting, plans: Iterable[StepPlan]) -> None:
    """Raises ValueError where a plan is not of `setting`, or uses what no plan before it kept."""
    kept: set[tuple[int, int]] = set()
    for step, plan in zip(setting.steps, plans, strict=True):
        check_plan(policy, setting, step.index, plan, kept)
        kept |= kept_by(plan)


def check_plan(
    policy: Policy, setting: Setting, index: int, plan: StepPlan, kept: set[tuple[int, int]]
) -> None:
    """Raises ValueError where `plan` cannot run after (pass, slot) pairs `kept` kept something.

    Also where its scalars have no name, by which alone they reach a stand-in.
    """
    where = f"policy {policy.name}, step {index}"
    if [len(acts) for acts in plan.passes] != [setting.slots] * setting.passes:
        raise ValueError(
            f"{where}: a plan of {setting.passes} passes with {setting.slots} acts each is needed, "
            f"got {plan.passes}"
        )
    if (plan.given or plan.given_by_pass) and not policy.rule.gives:
        raise ValueError(
            f"{where}: the plan has scalars, and {type(policy.rule).__name__} no word for them; "
            "let its `gives` be the `takes` of the stand-ins that they are for"
        )
    standing = _standing(policy.slots, plan)
    for number, acts in enumerate(plan.passes):
        for slot, act in enumerate(acts):
            needs_kept = act in (Act.STAND_IN, Act.CHECK, Act.REFRESH)
            needs_kept &= policy.slots[slot].stand_in.needs_kept
            if needs_kept and (number, slot) not in kept:
                raise ValueError(
                    f"{where}: slot {slot} of pass {number} stands in before anything was kept; "
                    "keep it at an earlier step"
                )
            own, computes = policy.slots[slot].site, (Act.KEEP, Act.CHECK, Act.REFRESH)
            if act in computes and not _is_computed(own, number, standing):
                raise ValueError(
                    f"{where}: slot {slot} of pass {number} is to be kept or checked, but another "
                    "slot stands in for it; let that one run, or give this one RUN"
                )
            if act == Act.REFRESH and not _has_rows(policy.slots[slot]):
                raise ValueError(
                    f"{where}: slot {slot} is to compute some rows anew, and its "
                    f"{_kind(policy.slots[slot].stand_in)} at {policy.slots[slot].site.level} "
                    "cannot; use a stand-in of rows at branches of MLPs"
                )


def _kind(stand_in: StandIn) -> str:
    """Its name in a message: a stand-in may hold a network, which is no word."""
    return type(getattr(stand_in, "stand_in", stand_in)).__name__


def _has_rows(slot: Slot) -> bool:
    """True where the stand-in can compute rows alone, and they do not depend on other rows."""
    is_mlp = all(name.endswith("mlp") for name in slot.site.names)
    return slot.stand_in.refreshes and (slot.site.level != "branch" or is_mlp)


def _standing(slots: tuple[Slot, ...], plan: StepPlan) -> list[set[Site]]:
    """The sites above branches at which something stands in, in each pass.

    Those of branches too where a slot is at attention, of which branches are made.
    """
    has_attention = any(slot.site.level == "attention" for slot in slots)
    above = [i for i, slot in enumerate(slots) if has_attention or slot.site.level != "branch"]
    return [
        {slots[i].site for i in above if acts[i] == Act.STAND_IN} if above else set()
        for acts in plan.passes
    ]


def _is_computed(own: Site, number: int, standing: list[set[Site]]) -> bool:
    """False where slots of whole passes, or of the same blocks, stand in for what is at `own`."""
    if own.level == ("guidance" if number == 0 else "velocity"):  # which this pass does not have
        return True
    if own.level == "attention" and _is_attention_replaced(own, standing[number]):
        return False
    is_skipped = any(site.level == "velocity" for site in standing[0]) or (
        number == 1 and any(site.level == "guidance" for site in standing[1])
    )
    return not is_skipped and not (own.level == "blocks" and own in standing[number])


def _is_attention_replaced(own: Site, standing: set[Site]) -> bool:
    """True where all that a block of `own` makes of its attention is replaced by `standing`."""
    for block in range(own.start, own.stop):
        names = {
            name
            for site in standing
            for name in site.names
            if site.level == "branch" and site.start <= block < site.stop
        }
        if {"img_attn", "txt_attn"} <= names or names & {"attn", "attn_part", "total"}:
            return True
    return False


def kept_by(plan: StepPlan) -> set[tuple[int, int]]:
    """The (pass, slot) pairs that `plan` keeps."""
    return {
        (number, slot)
        for number, acts in enumerate(plan.passes)
        for slot, act in enumerate(acts)
        if act == Act.KEEP
    }
