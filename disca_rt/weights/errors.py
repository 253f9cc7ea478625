"""The one exception of this folder, which every bad checkpoint raises, and its one warning."""

from ..errors import OneLineWarning
from ..errors import first_line as first_line


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file, the fault and the way out."""


class CheckpointWarning(OneLineWarning):
    """A checkpoint that can be used and is unusual; the message says in one line how."""
