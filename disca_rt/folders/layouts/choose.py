"""The table of layouts; the first that recognises a folder wins."""

from ..files import Files
from .diffusers import Diffusers
from .found import FolderLayout, Found, Wish

LAYOUTS: tuple[FolderLayout, ...] = (Diffusers(),)


def recognise(files: Files, wish: Wish) -> Found | None:
    """The parts among `files`, in the first layout that they have; None where they have none."""
    return next((found for row in LAYOUTS if (found := row.find(files, wish))), None)
