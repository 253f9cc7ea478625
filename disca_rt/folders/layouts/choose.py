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
    """The parts among `files` that are not given apart; None where no layout is theirs."""
    found = next((found for row in LAYOUTS if (found := row.find(files, wish))), None)
    found = with_disca(files, found, wish)
    if found is None:
        return None
    kept = {name: place for name, place in found.parts.items() if name not in wish.given}
    return found._replace(parts=kept)
