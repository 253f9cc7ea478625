"""Tables of a calibration against the methods that take options from them."""

from collections.abc import Mapping
from typing import Any

from ..cache.calibration import Table
from ..cache.options import fits, in_words
from ..cache.policies import POLICIES
from .tables import FITS

NUMBERS = tuple[float, ...]
WAY_OUT = "calibrate again, or take it out"


def check_tables(source: str, tables: Mapping[str, Table]) -> None:
    """Raises ValueError, in one line, for a table, an option or a value that no method takes.

    A table of `FITS` that belongs to no method may hold any numbers.
    """
    known = fitted_types()
    for name, table in tables.items():
        if name not in known.keys() | FITS.keys():
            there = ", ".join(sorted(known.keys() | FITS.keys()))
            raise ValueError(f"{source} has table {name!r}, and there are {there}; {WAY_OUT}")
        if not isinstance(table, Mapping):
            raise ValueError(
                f"{source}: table {name} must be options, got {_short(table)}; {WAY_OUT}"
            )
        types = known.get(name, dict.fromkeys(table, NUMBERS))
        for key, value in table.items():
            _check(f"{source}: table {name}", key, value, types)


def fitted_types() -> dict[str, dict[str, Any]]:
    """The types of options by table and name, of all methods."""
    types: dict[str, dict[str, Any]] = {}
    for method in POLICIES.values():
        for table, options in method.fitted_types.items():
            types.setdefault(table, {}).update(options)
    return types


def _check(where: str, key: str, value: Any, types: Mapping[str, Any]) -> None:
    if key not in types:
        known = ", ".join(sorted(types))
        raise ValueError(f"{where} has no option {key!r}; its options: {known}; {WAY_OUT}")
    if not fits(value, types[key]):
        wanted = in_words(types[key]).replace("number", "finite number")
        raise ValueError(f"{where}: {key} must be {wanted}, got {_short(value)}; {WAY_OUT}")


def _short(value: Any) -> str:
    """A value in a message: of many numbers the one that is none."""
    several = value if isinstance(value, tuple) else (value,)
    return repr(next((each for each in several if not fits(each, float)), value))[:60]
