"""Methods in words: what each is, its options with their defaults, its presets."""

from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any, NamedTuple

from .method import Method, Parts, ways
from .options import fields_of, in_words, is_file, types_of
from .placements.whole import Unconditional
from .policies import FAMILIES, STATE
from .stand_ins.kept_elsewhere import STATES

MARKS = {
    "C": "needs numbers that a calibration has (disca-rt calibrate), or a list of yours",
    "c": "takes numbers of a calibration where there is one",
    "f": "needs a file that disca-rt train cache writes, unless NAME tells another way",
    "2": "acts on guidance as well: that part needs two passes (classifier-free guidance)",
    "r": "reconstructed: no code of its authors was found",
}
"""Marks of methods in the list of all, and their meanings."""


class Option(NamedTuple):
    """An option: its name, its kind in words, and its default as it is written, or None.

    `is_required`: there is no other way than to give it. `is_fitted`: where it is left out, it
    comes from a calibration that has it.
    """

    name: str
    kind: str
    default: str | None
    is_required: bool = False
    is_fitted: bool = False

    def __str__(self) -> str:
        return self.name if self.default is None else f"{self.name}={self.default}"


def options_of(method: Method) -> list[Option]:
    """The options of a method's rules, placements and stand-ins, each once."""
    found: dict[str, Option] = {}
    for part in (*method.rules, *(part for where in method.places for part in where)):
        kinds = types_of(part)
        for name, field in fields_of(part).items():
            if name not in Parts._fields:
                given = name in method.defaults
                default = written(method.defaults[name]) if given else _default(field)
                is_required = len(method.rules) == 1 and name in method.needed[0]
                is_fitted = name in getattr(part, "fitted", ())
                option = Option(name, in_words(kinds[name]), default, is_required, is_fitted)
                found.setdefault(name, option)
    if method.places:
        found[STATE] = Option(STATE, f"one of {', '.join(STATES)}", STATES[0])
    return list(found.values())


def brief(name: str, method: Method) -> str:
    """A line about a method: its name, its marks, and what it is."""
    return f"{name:<21}{marks(method):<4}{method.brief}".rstrip()


def marks(method: Method) -> str:
    """The letters of `MARKS` that a method has."""
    rules = list(zip(method.rules, method.needed, strict=True))
    runs = any(not needed for _, needed in rules)
    fitted = any(needed & {*rule.fitted} for rule, needed in rules)
    files = any(is_file(types_of(rule)[key]) for rule, needed in rules for key in needed)
    has = {
        "C": fitted and not runs,
        "c": method.takes_calibration and (runs or not fitted),
        "f": files and not runs,
        "2": any(where.placement is Unconditional for where in method.places),
        "r": method.is_reconstructed,
    }
    return "".join(mark for mark in MARKS if has[mark])


def options_in_words(method: Method) -> list[str]:
    """A line for each option, and one for what its rules need where there are several."""
    lines = [f"{option.name}: {option.kind}{_remarks(option)}" for option in options_of(method)]
    if len(method.rules) > 1:
        lines.append(f"either {', or '.join(map(ways, method.rules))}")
    return lines


def written(value: Any) -> str:
    """A value as an option takes it."""
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(written, value)) if isinstance(value, tuple) else str(value)


def preset_text(options: Mapping[str, Any]) -> str:
    """The options of a preset, as they would be written."""
    return ",".join(f"{name}={written(value)}" for name, value in options.items())


def methods_page() -> str:
    """All methods in Markdown, by family."""
    parts = []
    for family, rows in FAMILIES.items():
        lines = [f"### {family[0].upper()}{family[1:]}", ""]
        lines += [_method(name, method) for name, method in rows.items()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _remarks(option: Option) -> str:
    """The remarks on an option, in brackets."""
    remarks = ["required"] * option.is_required
    remarks += [] if option.default is None else [f"default {option.default}"]
    if option.is_fitted:
        remarks.append("where left out, of a calibration that has it")
    return f" ({'; '.join(remarks)})" if remarks else ""


def _default(field: Any) -> str | None:
    if field.default_factory is not MISSING:
        return written(field.default_factory())
    return None if field.default is MISSING else written(field.default)


def _method(name: str, method: Method) -> str:
    paper = f" ({method.paper})" if method.paper else ""
    said = [f"- **`{name}`**{paper}: {method.about}"]
    options = ", ".join(
        f"`{_short(option)}`" for option in options_of(method) if option.name != STATE
    )
    said += [f"  Options: {options}."] if options else []
    presets = ", ".join(f"`{name}:{preset}`" for preset in method.presets)
    said += [f"  Presets: {presets}."] if presets else []
    return "\n".join(said)


def _short(option: Option) -> str:
    text = str(option)
    return text if len(text) <= 50 else f"{text[:47]}..."
