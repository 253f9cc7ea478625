"""The table of policies by name, and how a text such as "taylor:order=2,interval=5" becomes one.

A text is `name`, `name:preset`, `name:option=value,...`, or both, `name:preset,option=value`; or
two of them joined by "+": the rule of the first with the slots of the second, such as
"teacache:rel_l1_thresh=0.15+disca". Where the first one's rule plans for slots of its own, its
sites stay, and the second's stand-in takes their places, but for those where what is kept is
computed anew in part, which it may not be able to do. Scalars of the first one's plans mean
nothing to a stand-in that takes none of their kind: "omnicache+taylor" is meant to do without, and
"reuse+omnicache" to have the stand-in's own values. All that keep something have the option
`state`: in FP8, in the host's memory, or both.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, NamedTuple

from ..schedule import Preset, Schedule
from .calibration import Uncalibrated
from .method import Method, Parts
from .methods import (
    attention,
    branches,
    forecasts,
    guidance,
    ranges,
    rows,
    whole_step_deciders,
    whole_steps,
)
from .options import fields_of, read_options
from .plan import Setting
from .policy import Policy, Slot
from .rule import Rule
from .rules.always import Always
from .stand_in import StandIn
from .stand_ins.kept_elsewhere import with_state

STATE = "state"  # the option that says where and how a policy keeps its buffers
_JOINT = re.compile(r"\+(?=[a-z])")  # between two policies; a plus in a number is none

FAMILIES: dict[str, dict[str, Method]] = {
    "step lists": whole_steps.METHODS,
    "whole steps": whole_step_deciders.METHODS,
    "forecasts and drafts": forecasts.METHODS,
    "ranges of blocks": ranges.METHODS,
    "guidance and several levels": guidance.METHODS,
    "branches": branches.METHODS,
    "subsets of tokens": rows.METHODS,
    "sparse attention": attention.METHODS,
}
"""The rows by what the methods are about."""

POLICIES: dict[str, Method] = {
    name: method for rows in FAMILIES.values() for name, method in rows.items()
}


class Named(NamedTuple):
    """One part of a policy's text: a method of the table, by its name, and options."""

    name: str
    method: Method
    options: dict[str, Any]

    @property
    def of_rule(self) -> dict[str, Any]:
        return {key: value for key, value in self.options.items() if key in self.method.rule_types}


def check_method(name: str, what: str) -> None:
    """Raises ValueError unless `name` is a method's; it says which are near, `what` is wrong."""
    if name in POLICIES:
        return
    near = ", ".join(get_close_matches(name, POLICIES))
    raise ValueError(
        f"{what} must be one of {len(POLICIES)} methods (disca-rt caches lists all), got {name!r}"
        + f"; near it: {near}" * bool(near)
    )


def read_policy(text: str) -> tuple[Named, ...]:
    """The one or two parts of `text`; ValueError lists the known names, presets or options."""
    parts = tuple(_read(each) for each in _JOINT.split(text))
    if len(parts) > 2:
        raise ValueError(f"policy joins at most two, the rule's and the slots', got {text!r}")
    if len(parts) == 2:
        _check_combination(*parts)
    return parts


def needs_step_list(text: str) -> bool:
    """True where the policy of `text` follows a step list that `text` does not give."""
    first = read_policy(text)[0]
    return first.method.follows_list and not first.of_rule


def with_step_list(text: str, step_list: Sequence[int]) -> str:
    """The policy of `text` with a step list of its rule, which is that of its first part."""
    first, *second = _JOINT.split(text)
    joint = "," if ":" in first else ":"
    return "+".join([f"{first}{joint}step_list={','.join(map(str, step_list))}", *second])


def takes_calibration(text: str) -> bool:
    """True where the policy of `text` takes options from a calibration, or all of it."""
    return any(each.method.takes_calibration for each in read_policy(text))


def tables_of(text: str) -> set[str]:
    """The names of the tables of a calibration that the policy of `text` takes options from."""
    return {table for each in read_policy(text) for table in each.method.tables}


def fitted_options(text: str, parts: Parts) -> list[str]:
    """The options of the policy of `text` that come from the calibration among `parts`."""
    named = read_policy(text)
    of_rule = named[0].method.fitted_of_rule(named[0].of_rule, parts)
    of_slots = named[-1].method.fitted_of_slots(named[-1].options, _parts_for_slots(named, parts))
    return sorted(of_rule | of_slots)


def build_policy(text: str, parts: Parts, step_list: tuple[int, ...] | None = None) -> Policy:
    """The policy that `text` describes; its name is those of its parts.

    `step_list` is the rule's where it follows one and `text` has no option of a rule. ValueError
    lists the known names, or the options of the policy that is named.
    """
    named = read_policy(text)
    name = "+".join(each.name for each in named)
    with _naming(name):
        rule = _rule(named[0], parts, step_list)
        policy = Policy(name, rule, _slots(named, parts) if named[0].method.places else ())
    return with_state(policy, named[-1].options.get(STATE, "device"))


def sketch_policy(text: str, parts: Parts) -> Policy:
    """The policy that `text` describes, for those who count what it keeps.

    Where its rule lacks options that a calibration would give, it is a rule that watches nothing.
    """
    try:
        return build_policy(text, parts, step_list=(0,))
    except Uncalibrated:
        named = read_policy(text)
        slots = _slots(named, parts) if named[0].method.places else ()
        policy = Policy("+".join(each.name for each in named), Always(), slots)
        return with_state(policy, named[-1].options.get(STATE, "device"))


def resolve(
    schedule: Schedule | Preset, policy: str | Policy, parts: Parts
) -> tuple[Schedule, Policy]:
    """Noise levels and a policy from what a user gives; a preset's list is the policy's default.

    ValueError where the policy's rule does not fit the noise levels.
    """
    given = schedule if isinstance(schedule, Preset) else Preset(schedule)
    text, steps = policy, tuple(given.schedule)
    if isinstance(policy, str):
        policy = build_policy(policy, parts, given.step_list)
    with _naming(policy.name):
        try:
            policy.rule.start(Setting(steps, 1, len(policy.slots)))
        except ValueError as error:
            if isinstance(text, str) and (said := _said_of_preset(text, len(steps))):
                raise ValueError(said) from error
            raise
    return given.schedule, policy


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Names the policy in what its parts refuse, unless they did."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith("policy "):
            raise
        kind = Uncalibrated if isinstance(error, Uncalibrated) else ValueError
        raise kind(f"policy {name}: {error}") from error


def _said_of_preset(text: str, steps: int) -> str | None:
    """A refusal of a sample of so many steps, where the rule follows a preset for another number.

    None where no such preset is named, or other options are given in its place.
    """
    first = read_policy(text)[0]
    preset = _JOINT.split(text)[0].partition(":")[2].partition(",")[0]
    meant = first.method.preset_steps.get(preset)
    if meant in (None, steps) or not first.method.presets[preset].items() <= first.options.items():
        return None
    return (
        f"policy {first.name}:{preset} is for {meant} steps, this sample has {steps}: give --steps "
        f"{meant}, or options of your own{_example(first, preset)}"
    )


def _example(named: Named, preset: str) -> str:
    """An option of a rule that is a number and none of the preset's, as it is written."""
    for rule in named.method.rules:
        for key, option in fields_of(rule).items():
            is_number = isinstance(option.default, int | float)
            if is_number and key not in named.method.presets[preset]:
                return f" such as {named.name}:{key}={option.default}"
    return ""


def _read(text: str) -> Named:
    name, _, rest = text.partition(":")
    check_method(name, "policy")
    method = POLICIES[name]
    preset, rest = _preset(name, method, rest)
    return Named(
        name, method, preset | read_options(name, rest, method.rule_types | _slot_types(method))
    )


def _slot_types(method: Method) -> dict[str, Any]:
    return {**method.slot_types, **({STATE: str} if method.places else {})}


def _preset(name: str, method: Method, text: str) -> tuple[dict[str, Any], str]:
    """The options of a preset that `text` begins with, and what is left of it."""
    first, _, rest = text.partition(",")
    if not first or "=" in first:
        return {}, text
    if first not in method.presets:
        known = ", ".join(sorted(method.presets)) or "none"
        raise ValueError(
            f"policy {name}: options must be option=value,..., got {text!r}; a preset's name may "
            f"come first, and there are: {known}"
        )
    return dict(method.presets[first]), rest


def _check_combination(first: Named, second: Named) -> None:
    if not first.method.places or not second.method.places:
        nothing = (second if first.method.places else first).name
        raise ValueError(f"policy {nothing} stands in for nothing; join it with no other one")
    for each, known in ((first, first.method.rule_types), (second, _slot_types(second.method))):
        other = [key for key in each.options if key not in known]
        if other and not (each is first and first.method.is_placed):
            part = "rule" if each is first else "stand-in"
            raise ValueError(
                f"policy {first.name}+{second.name} takes the {part} of {each.name}, which has no "
                f"option {other[0]!r}; its options: {', '.join(sorted(known)) or 'none'}"
            )


def _rule(named: Named, parts: Parts, step_list: tuple[int, ...] | None) -> Rule:
    options = named.of_rule
    if not options and step_list is not None and named.method.follows_list:
        options = {"step_list": step_list}
    return named.method.rule(named.name, options, parts)


def _slots(named: tuple[Named, ...], parts: Parts) -> tuple[Slot, ...]:
    """The slots of the only part, or of both: see the head of this file."""
    first, last = named[0], named[-1]
    slots = last.method.slots(last.options, _parts_for_slots(named, parts))
    if last is first or not first.method.is_placed:
        return slots
    stand_in, own = _only_stand_in(last.name, slots), first.method.slots(first.options, parts)
    stays = [slot.stand_in.refreshes and not stand_in.refreshes for slot in own]
    if own and all(stays):
        raise ValueError(
            f"policy {last.name} takes no place of {first.name}, all of which compute rows anew; "
            f"name one whose stand-in can, as toca, or {first.name} alone"
        )
    return tuple(
        slot if each else Slot(slot.site, stand_in) for slot, each in zip(own, stays, strict=True)
    )


def _parts_for_slots(named: tuple[Named, ...], parts: Parts) -> Parts:
    """The parts that slots are built from.

    A calibration's placements are planned for by the method's own rule: another's has none of them.
    """
    is_planned = named[-1] is named[0] or not named[-1].method.is_placed
    return parts if is_planned else parts._replace(calibration=None)


def _only_stand_in(name: str, slots: tuple[Slot, ...]) -> StandIn:
    kinds = {slot.stand_in for slot in slots}
    if len(kinds) != 1:
        how_many = "several stand-ins" if kinds else "no stand-in in this model"
        raise ValueError(f"policy {name} has {how_many}; name one that has one, as taylor")
    return kinds.pop()
