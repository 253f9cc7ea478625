"""Methods, the entries of the table of policies: of which rules, placements and stand-ins.

Options are the fields of all three; one name may be a field of several, which then all get it. A
part with class attributes `fitted_in` and `fitted` gets those of `fitted` that are left out from
the calibration's table `fitted_in`; none of them where one is given of those that its
`fitted_unless` names, which say otherwise what the table does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from typing import Any, NamedTuple

from ..config import DiTConfig, PredictorConfig, predictor_config
from ..kernels.ops import Ops
from ..models.predictor import Predictor
from .calibration import Calibration, Uncalibrated
from .options import fields_of, is_file, types_of
from .placement import Placement
from .placements.whole import Whole
from .policy import Slot
from .rule import Rule
from .rules.interval import Interval
from .rules.listed import Listed
from .stand_in import StandIn
from .token_mask import TokenMask


class Sketch(NamedTuple):
    """A predictor of which only the config is known."""

    config: PredictorConfig


class Parts(NamedTuple):
    """Parts of a model, and of a sample, that policies are built from, besides their options."""

    config: DiTConfig
    ops: Ops | None = None
    predictor: Predictor | Sketch | None = None
    calibration: Calibration | None = None
    edit_mask: TokenMask | None = None


def sketched(config: DiTConfig) -> Parts:
    """Parts of a model that is not there: for policies that are counted, not run."""
    return Parts(config, predictor=Sketch(predictor_config(config)))


class Where(NamedTuple):
    """A placement, and the stand-in at all of its sites."""

    placement: type[Placement]
    stand_in: type[StandIn]


LISTED_OR_INTERVAL = Listed, Interval


@dataclass(frozen=True)
class Method:
    """One method: `rules` to choose from, and `places`, whose sites are its slots, in order.

    The first rule that has all the options given is taken. `brief` and `about` say what the method
    is, in a few words and in full, `paper` where it comes from, `is_reconstructed` that no code of
    its authors was found. `defaults` are options by name where the method's differ from their
    fields' own, `presets` named settings, `preset_steps` the number of steps that those with a list
    of steps are for. `is_placed`: its rule plans for its own slots, one by one, so that they go
    with it in a combination. All rules give the scalars that the stand-ins take, or none
    where they take none; else ValueError.
    """

    rules: tuple[type[Rule], ...]
    places: tuple[Where, ...] = ()
    brief: str = ""
    about: str = ""
    paper: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    preset_steps: Mapping[str, int] = field(default_factory=dict)
    is_placed: bool = False
    is_reconstructed: bool = False

    def __post_init__(self) -> None:
        taken = {where.stand_in.takes for where in self.places} - {""}
        for rule in self.rules:
            if {rule.gives} - {""} != taken:
                raise ValueError(
                    f"{rule.__name__} gives scalars {rule.gives!r}, and stand-ins of the method "
                    f"take {sorted(taken)}; the words must be the same, or the scalars never arrive"
                )

    @property
    def follows_list(self) -> bool:
        """True where its full steps are a preset's step list, unless its own options say others."""
        return issubclass(self.rules[0], Listed)

    @property
    def tables(self) -> set[str]:
        """The names of the tables of a calibration that its parts take options from."""
        return {table for part in self._parts if (table := _table(part)) is not None}

    @property
    def fitted_types(self) -> dict[str, dict[str, Any]]:
        """The types of the options that each of those tables may have, by table and name."""
        types: dict[str, dict[str, Any]] = {table: {} for table in self.tables}
        for part in self._parts:
            if (table := _table(part)) is not None:
                types[table] |= {key: types_of(part)[key] for key in _fitted_names(part)}
        return types

    @property
    def takes_calibration(self) -> bool:
        """True where a part takes options from a calibration, or all of it."""
        return bool(self.tables) or any("calibration" in fields_of(part) for part in self._parts)

    @property
    def _parts(self) -> tuple[type, ...]:
        return (*self.rules, *(part for where in self.places for part in where))

    @property
    def rule_types(self) -> dict[str, Any]:
        """The types of its rules' options, by name."""
        return _types(self.rules)

    @property
    def slot_types(self) -> dict[str, Any]:
        """The types of the options of its placements and stand-ins, by name."""
        return _types([part for where in self.places for part in where])

    @property
    def needed(self) -> list[set[str]]:
        """The options that each of its rules needs; a preset's step list is none of them."""
        without = {"step_list"} if self.follows_list else set()
        return [
            {key for key, each in _options_of(rule).items() if _is_needed(each)} - without
            for rule in self.rules
        ]

    def rule(self, name: str, options: Mapping[str, Any], parts: Parts) -> Rule:
        """The first rule that has all of `options`; ValueError says which options others need."""
        rule = self._rule_for(options, parts)
        if rule is not None:
            return _built(rule, self._given(rule, options, parts), parts)
        needed = ", or ".join(map(ways, self.rules))
        got = " and ".join(options) or "neither"
        example = f"; give one such as {name}:interval=4" if Interval in self.rules else ""
        said = f"policy {name} needs {needed}, got {got}{example}"
        if any(_table(rule) for rule in self.rules):
            raise Uncalibrated(f"{said}; a calibration has them: disca-rt calibrate")
        raise ValueError(said)

    def slots(self, options: Mapping[str, Any], parts: Parts) -> tuple[Slot, ...]:
        """Its slots in a model."""
        slots: list[Slot] = []
        for where in self.places:
            placement, stand_in = (
                _built(part, self._given(part, options, parts), parts) for part in where
            )
            slots += (Slot(s, stand_in.at_site(s)) for s in placement.sites(parts.config))
        return tuple(slots)

    def fitted_of_rule(self, options: Mapping[str, Any], parts: Parts) -> set[str]:
        """The rule's options that come from the calibration where `options` are given."""
        rule = self._rule_for(options, parts)
        return set() if rule is None else _fitted(rule, options, parts).keys() - options.keys()

    def fitted_of_slots(self, options: Mapping[str, Any], parts: Parts) -> set[str]:
        """The options of placements and stand-ins that come from the calibration."""
        of_slots = [part for where in self.places for part in where]
        fitted = {key for part in of_slots for key in _fitted(part, options, parts)}
        for part in of_slots:
            if hasattr(part, "fitted_of"):  # tensors, of all of the calibration
                fitted |= part.fitted_of(parts.calibration, parts.config)
        return fitted - options.keys()

    def _rule_for(self, options: Mapping[str, Any], parts: Parts) -> type[Rule] | None:
        """The first rule that has all of `options`, and all that it needs."""
        for rule in self.rules:
            known = _options_of(rule)
            needed = {key for key, each in known.items() if _is_needed(each)}
            given = self._given(rule, options, parts)
            if options.keys() <= known.keys() and needed <= given.keys():
                return rule
        return None

    def _given(self, part: type, options: Mapping[str, Any], parts: Parts) -> dict[str, Any]:
        """The user's options over those of the table, and these over the method's defaults."""
        return {**self.defaults, **_fitted(part, options, parts), **options}


def everywhere(stand_in: type[StandIn], placement: type[Placement] = Whole) -> tuple[Where, ...]:
    """One stand-in at one placement."""
    return (Where(placement, stand_in),)


def ways(rule: type[Rule]) -> str:
    """The options of a rule in words; those that have a default in brackets."""
    known, kinds = _options_of(rule).values(), types_of(rule)
    needed = [each.name + "=FILE" * is_file(kinds[each.name]) for each in known if _is_needed(each)]
    more = [f"({each.name})" for each in known if not _is_needed(each)]
    return " ".join([" and ".join(needed)] * bool(needed) + more)


def _built(part: type, options: Mapping[str, Any], parts: Parts) -> Any:
    """`part` with those of `options` that it has, and with the model's parts that it names."""
    known = fields_of(part)
    given = {key: each for key, each in options.items() if key in known}
    return part(**given, **{key: getattr(parts, key) for key in known if key in Parts._fields})


def _table(part: type) -> str | None:
    return getattr(part, "fitted_in", None)


def _fitted_names(part: type) -> tuple[str, ...]:
    """The options of `part` that a calibration may give."""
    return getattr(part, "fitted", ())


def _fitted(part: type, options: Mapping[str, Any], parts: Parts) -> dict[str, Any]:
    """The options of `part` in the calibration's table that it names, beside the user's."""
    if parts.calibration is None or options.keys() & {*getattr(part, "fitted_unless", ())}:
        return {}
    table = parts.calibration.table(_table(part))
    return {key: value for key, value in table.items() if key in _fitted_names(part)}


def _options_of(part: type) -> dict[str, Any]:
    return {key: each for key, each in fields_of(part).items() if key not in Parts._fields}


def _types(parts: Sequence[type]) -> dict[str, Any]:
    types = {key: kind for part in parts for key, kind in types_of(part).items()}
    return {key: kind for key, kind in types.items() if key not in Parts._fields}


def _is_needed(option: Any) -> bool:
    return option.default is MISSING and option.default_factory is MISSING
