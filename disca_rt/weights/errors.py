"""The one exception of this folder, which every bad checkpoint raises, and its one warning."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file, the fault and the way out."""


class CheckpointWarning(UserWarning):
    """A checkpoint that can be used and is unusual; the message says in one line how."""


def first_line(error: BaseException) -> str:
    """The first line of `error`'s message, or its type where it has none."""
    return (
        next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        or type(error).__name__
    )
