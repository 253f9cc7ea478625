"""DisCa's files in a folder of any layout, or alone: its MeanFlow DiT and its predictor."""

from typing import TYPE_CHECKING

from ...weights.files.pick import SUFFIXES
from ..files import Files
from .found import Found, Wish

if TYPE_CHECKING:
    from ..parts import PartName

FOLDERS = ("", "hyvideo10_t2v", "hyvideo15_i2v", "hyvideo15", "disca", "DisCa")
NAMES: "dict[PartName, str]" = {"predictor": "predictor", "dit": "meanflow"}


def with_disca(files: Files, found: Found | None, wish: Wish) -> Found | None:
    """`found` with DisCa's files where they lie there: they are what is run.

    A DiT of another variant stays where it is asked for by name.
    """
    there = {part: place for part in NAMES if (place := _first(files, NAMES[part]))}
    if wish.variant is not None:
        there.pop("dit", None)
    if found is None:  # a predictor alone is a checkpoint like any other
        return Found("official", there, {}) if "dit" in there else None
    return found._replace(parts={**found.parts, **there})


def _first(files: Files, word: str) -> str | None:
    places = (
        f"{folder}/{name}" if folder else name
        for folder in FOLDERS
        for name in files.here(folder)
        if word in name.lower() and name.endswith(SUFFIXES)
    )
    return next(places, None)
