"""The one exception of this folder: every bad checkpoint, whatever is wrong with it, raises it."""

from ..errors import first_line as first_line


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file, the fault and the way out."""
