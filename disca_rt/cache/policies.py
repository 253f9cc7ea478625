"""The table of policies by name, and how a text such as "taylor:order=2,interval=5" becomes one.

A row names the rules that a policy may follow, its sites and its stand-in. Options are the fields
of its rules and of its stand-in; the first rule that has all the options given is taken.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any, NamedTuple

from ..config import DiTConfig, PredictorConfig, predictor_config
from ..kernels.ops import Ops
from ..models.predictor import Predictor
from ..schedule import Preset, Schedule
from .options import fields_of, read_options, types_of
from .plan import Setting
from .policy import Policy, Slot
from .rule import Rule
from .rules.always import Always
from .rules.interval import Interval
from .rules.listed import Listed
from .site import Site, whole
from .stand_in import StandIn
from .stand_ins.learned import Learned
from .stand_ins.polynomial import Hermite, Taylor
from .stand_ins.reuse import Reuse


class Sketch(NamedTuple):
    """A predictor of which only the config is known."""

    config: PredictorConfig


class Parts(NamedTuple):
    """Parts of a model that policies are built from, besides their options."""

    config: DiTConfig
    ops: Ops | None = None
    predictor: Predictor | Sketch | None = None


def sketched(config: DiTConfig) -> Parts:
    """Parts of a model that is not there: for policies that are counted, not run."""
    return Parts(config, predictor=Sketch(predictor_config(config)))


@dataclass(frozen=True)
class Row:
    """One policy: `rules` to choose from, `sites` of a model, and the `stand_in` at all of them."""

    rules: tuple[type[Rule], ...]
    stand_in: type[StandIn] | None = None
    sites: Callable[[DiTConfig], Sequence[Site]] = lambda config: [whole(config)]

    @property
    def rule_types(self) -> dict[str, Any]:
        """The types of its rules' options, by name."""
        return {key: kind for rule in self.rules for key, kind in types_of(rule).items()}

    @property
    def stand_in_types(self) -> dict[str, Any]:
        """The types of its stand-in's options, by name."""
        types = types_of(self.stand_in)
        return {key: kind for key, kind in types.items() if key not in Parts._fields}


LISTED_OR_INTERVAL = Listed, Interval

POLICIES: dict[str, Row] = {
    "full": Row((Always,)),
    "disca": Row(LISTED_OR_INTERVAL, Learned),
    "reuse": Row(LISTED_OR_INTERVAL, Reuse),
    "taylor": Row(LISTED_OR_INTERVAL, Taylor),
    "hermite": Row(LISTED_OR_INTERVAL, Hermite),
}


def build_policy(text: str, parts: Parts, step_list: tuple[int, ...] | None = None) -> Policy:
    """The policy that `text` describes: a name, or `name:option=value,...`.

    `step_list` is the rule's where it takes one and `text` has no option of a rule. ValueError
    lists the known names, or the options of the policy that is named.
    """
    name, options = read_policy(text)
    row = POLICIES[name]
    of_rule = {key: value for key, value in options.items() if key in row.rule_types}
    if not of_rule and step_list is not None and "step_list" in row.rule_types:
        of_rule = {"step_list": step_list}
    rule = _rule(name, row, of_rule)
    if row.stand_in is None:
        return Policy(name, rule)
    given = {key: value for key, value in options.items() if key in row.stand_in_types}
    given |= {key: getattr(parts, key) for key in fields_of(row.stand_in) if key in Parts._fields}
    stand_in = row.stand_in(**given)
    return Policy(name, rule, tuple(Slot(site, stand_in) for site in row.sites(parts.config)))


def resolve(
    schedule: Schedule | Preset, policy: str | Policy, parts: Parts
) -> tuple[Schedule, Policy]:
    """Noise levels and a policy from what a user gives; a preset's list is the policy's default.

    ValueError where the policy's rule does not fit the noise levels.
    """
    given = schedule if isinstance(schedule, Preset) else Preset(schedule)
    if isinstance(policy, str):
        policy = build_policy(policy, parts, given.step_list)
    policy.rule.start(Setting(tuple(given.schedule), 1, len(policy.slots)))
    return given.schedule, policy


def read_policy(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the options in `text`, the latter with the types that they must have."""
    name, _, options = text.partition(":")
    if name not in POLICIES:
        raise ValueError(f"policy must be one of {sorted(POLICIES)}, got {name!r}")
    row = POLICIES[name]
    return name, read_options(name, options, row.rule_types | row.stand_in_types)


def needs_step_list(text: str) -> bool:
    """True where the policy of `text` follows a step list that `text` does not give."""
    name, options = read_policy(text)
    types = POLICIES[name].rule_types
    return "step_list" in types and not options.keys() & types.keys()


def _rule(name: str, row: Row, options: Mapping[str, Any]) -> Rule:
    for rule in row.rules:
        known = fields_of(rule)
        needed = {key for key, field in known.items() if field.default is MISSING}
        if options.keys() <= known.keys() and needed <= options.keys():
            return rule(**options)
    ways = ", or ".join(_ways(rule) for rule in row.rules)
    got = " and ".join(options) or "neither"
    raise ValueError(f"policy {name} needs {ways}, got {got}; give one such as {name}:interval=4")


def _ways(rule: type[Rule]) -> str:
    """The options of a rule in words; those that have a default in brackets."""
    known = fields_of(rule).values()
    needed = [field.name for field in known if field.default is MISSING]
    more = [f"({field.name})" for field in known if field.default is not MISSING]
    return " ".join([" and ".join(needed), *more])
