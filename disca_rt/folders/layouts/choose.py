"""The table of layouts; the first that recognises a folder wins."""

from ..files import Files
from .comfyui import ComfyUI
from .diffusers import Diffusers
from .disca import with_disca
from .found import FolderLayout, Found, Wish
from .official_10 import Official10
from .official_15 import Official15

LAYOUTS: tuple[FolderLayout, ...] = (Diffusers(), Official15(), Official10(), ComfyUI())


def recognise(files: Files, wish: Wish) -> Found | None:
    """The parts among `files`, in the first layout that they have; None where they have none."""
    found = next((found for row in LAYOUTS if (found := row.find(files, wish))), None)
    return with_disca(files, found, wish)
