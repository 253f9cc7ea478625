"""Result of a layout: the places of a folder's parts, by names of files alone."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ...family import Family
from ...weights.errors import CheckpointError
from ..files import Files

if TYPE_CHECKING:
    from ..parts import PartName, Task


class Found(NamedTuple):
    """Parts by name, each a file or a folder relative to the root, and what names tell of them.

    `family` and `task` are None where names do not tell; `variant` names the DiT among several.
    `places` says where each part would lie.
    """

    layout: str
    parts: "Mapping[PartName, str]"
    places: "Mapping[PartName, str]"
    family: Family | None = None
    task: "Task | None" = None
    variant: str = ""


class Wish(NamedTuple):
    """Limits on the choice: the variant asked for, and the parts that are given apart.

    `family` is that of the DiT given apart.
    """

    variant: str | None = None
    given: frozenset[str] = frozenset()
    family: Family | None = None

    @property
    def has_dit(self) -> bool:
        return "dit" in self.given


class FolderLayout(Protocol):
    """One way of laying out the parts of a model."""

    def find(self, files: Files, wish: Wish) -> Found | None:
        """The parts among `files`; None where they are not laid out so.

        Raises CheckpointError where `wish` names none of several DiTs, or one that is not there.
        """


def choose_variant(names: list[str], wish: Wish, where: str) -> str | None:
    """The one of `names` that is wished for; None where there is none, or the DiT is given apart.

    Raises CheckpointError listing them where it is none of them, or several lie there unnamed.
    """
    if wish.has_dit or not names:
        return None
    if wish.variant in names:
        return wish.variant
    listed = ", ".join(names)
    if wish.variant is not None:
        raise CheckpointError(f"variant must be one of {listed} in {where}, got {wish.variant!r}")
    if len(names) > 1:
        raise CheckpointError(f"{where} holds {len(names)} variants; name one, --variant: {listed}")
    return names[0]


def first_root(
    files: Files, roots: tuple[str, ...], look: Callable[[Files, str], list[str]]
) -> tuple[str, list[str]]:
    """The first of `roots` in which `look` finds something, with that; else the first of them."""
    for root in roots:
        if found := look(files, root):
            return root, found
    return roots[0], []


def existing(files: Files, places: "Mapping[PartName, str]") -> "dict[PartName, str]":
    """Those of `places` that are a file, or a folder with files in it."""
    return {
        name: place for name, place in places.items() if place in files.names or files.here(place)
    }
