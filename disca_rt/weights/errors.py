"""The one exception of this folder: every bad checkpoint, whatever is wrong with it, raises it."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file, the fault and the way out."""


def first_line(error: BaseException) -> str:
    """The first line of `error`'s message, or its type where it has none."""
    return (
        next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        or type(error).__name__
    )
