"""Options of a policy as text: "name:option=value,..." and the types of their values."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from math import isfinite, isnan
from types import NoneType, UnionType
from typing import Any, Literal, NewType, Union, get_args, get_origin, get_type_hints

File = NewType("File", str)
"""The path of a file, as an option's type."""

BOOLS = {"true": True, "false": False}
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
KINDS[File] = "the path of a file"


def fields_of(part: type) -> dict[str, Any]:
    """The fields that a rule, a placement or a stand-in is built from, by name."""
    return {field.name: field for field in fields(part) if field.init}


def types_of(part: type | None) -> dict[str, Any]:
    """The types of those fields, by name."""
    if part is None:
        return {}
    hints = get_type_hints(part)
    return {name: hints[name] for name in fields_of(part)}


def read_options(name: str, text: str, types: Mapping[str, Any]) -> dict[str, Any]:
    """The values in `text`, "option=value,...", of policy `name`, whose options have `types`.

    A value of several numbers is written with commas too. ValueError lists the options there are,
    or says what a value must be.
    """
    options: dict[str, Any] = {}
    for key, value in _pairs(name, text):
        if key in options:
            raise ValueError(f"policy {name}: {key} is given twice; give it once")
        if key not in types:
            known = ", ".join(sorted(types)) or "none"
            raise ValueError(f"policy {name} has no option {key!r}; its options: {known}")
        options[key] = _value(name, key, value, types[key])
    return options


def _pairs(name: str, text: str) -> list[tuple[str, str]]:
    """Keys and values; a piece without "=" goes on with the value before it."""
    pairs: list[tuple[str, str]] = []
    for piece in text.split(",") if text else ():
        key, equals, value = piece.partition("=")
        if equals:
            pairs.append((key.strip(), value.strip()))
        elif pairs:
            pairs[-1] = pairs[-1][0], f"{pairs[-1][1]},{piece.strip()}"
        else:
            raise ValueError(f"policy {name}: options must be option=value,..., got {text!r}")
    return pairs


def check_int(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Raises ValueError unless `value` is a whole number from `least` to `most`."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be a whole number {bounds}, got {value!r}")


def check_number(name: str, value: Any, least: float, most: float = float("inf")) -> None:
    """Raises ValueError unless `value` is a number from `least` to `most`; infinity is one."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        bounds = f"of at least {least}" if most == float("inf") else f"from {least} to {most}"
        raise ValueError(f"{name} must be a number {bounds}, got {value!r}")


def check_factor(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is above 0 and at most 10; large ones would overflow."""
    if not 0 < value <= 10:
        raise ValueError(f"{name} must be a number above 0 and at most 10, got {value!r}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(choices)}, got {value!r}")


def _value(name: str, key: str, text: str, kind: Any) -> Any:
    try:
        return _parsed(text, kind)
    except ValueError as error:
        raise ValueError(f"policy {name}: {key} must be {in_words(kind)}, got {text!r}") from error


def _parsed(text: str, kind: Any) -> Any:
    """`text` as a value of type `kind`; ValueError where it is none."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _chosen(text, args)
    if origin is tuple:
        pieces = [] if text == "none" else text.split(",")
        return tuple(_parsed(piece.strip(), args[0]) for piece in pieces)
    if origin in (Union, UnionType):  # X | None; others of several are not written as text
        return None if text == "none" and NoneType in args else _parsed(text, args[0])
    if kind is bool:
        return BOOLS[_chosen(text, [*BOOLS])]
    if kind is float:
        return _number(text)
    return int(text) if kind is int else text


def _number(text: str) -> float:
    """The number in `text`; infinity is one, NaN none: no comparison with it means anything."""
    number = float(text)
    if isnan(number):
        raise ValueError(text)
    return number


def _chosen(text: str, known: Sequence[str]) -> str:
    if text not in known:
        raise ValueError(text)
    return text


def fits(value: Any, kind: Any) -> bool:
    """True where `value` is one of an option of type `kind`, and its numbers are finite."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in args
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(each, args[0]) for each in value)
    if origin in (Union, UnionType):
        return any(fits(value, each) for each in args)
    if isinstance(value, bool) or value is None:
        return kind is (NoneType if value is None else bool)
    if kind is float:
        return isinstance(value, int | float) and isfinite(value)
    return isinstance(value, str if kind is File else kind)


def is_file(kind: Any) -> bool:
    """True where a value of type `kind` may be the path of a file."""
    return File in (kind, *get_args(kind))


def in_words(kind: Any) -> str:
    """Words that say what a value of type `kind` must be."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(args)
    if origin is tuple and args[0] is str:
        return "words, commas between them"
    if origin is tuple:
        return "numbers such as 0,1,2,5"
    if origin in (Union, UnionType):
        return in_words(args[0]) + ", or none" * (NoneType in args)
    return KINDS.get(kind) or f"of type {kind.__name__}"
