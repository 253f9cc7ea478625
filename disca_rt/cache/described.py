"""Methods in words: what each is, its options with their defaults, its presets. Knows the table."""

from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any, NamedTuple

from .options import fields_of, in_words, types_of
from .policies import FAMILIES, STATE
from .row import Parts, Row
from .stand_ins.kept_elsewhere import STATES


class Option(NamedTuple):
    """An option: its name, its kind in words, and its default as it is written, or None."""

    name: str
    kind: str
    default: str | None

    def __str__(self) -> str:
        return self.name if self.default is None else f"{self.name}={self.default}"


def options_of(row: Row) -> list[Option]:
    """The options of a method's rules, placements and stand-ins, each once."""
    found: dict[str, Option] = {}
    for part in (*row.rules, *(part for where in row.places for part in where)):
        kinds = types_of(part)
        for name, field in fields_of(part).items():
            if name not in Parts._fields:
                given = name in row.defaults
                default = written(row.defaults[name]) if given else _default(field)
                found.setdefault(name, Option(name, in_words(kinds[name]), default))
    if row.places:
        found[STATE] = Option(STATE, f"one of {', '.join(STATES)}", STATES[0])
    return list(found.values())


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
        lines += [_method(name, row) for name, row in rows.items()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _default(field: Any) -> str | None:
    if field.default_factory is not MISSING:
        return written(field.default_factory())
    return None if field.default is MISSING else written(field.default)


def _method(name: str, row: Row) -> str:
    paper = f" ({row.paper})" if row.paper else ""
    said = [f"- **`{name}`**{paper}: {row.about}"]
    options = ", ".join(f"`{_short(option)}`" for option in options_of(row) if option.name != STATE)
    said += [f"  Options: {options}."] if options else []
    presets = ", ".join(f"`{name}:{preset}`" for preset in row.presets)
    said += [f"  Presets: {presets}."] if presets else []
    return "\n".join(said)


def _short(option: Option) -> str:
    text = str(option)
    return text if len(text) <= 50 else f"{text[:47]}..."
