"""Errors and warnings that are told in one line."""


def first_line(error: BaseException) -> str:
    """First line of `error`'s message that is not blank, or its type where there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)


class OneLineWarning(UserWarning):
    """Base of the warnings that `disca-rt` prints in one line, without the place in the code."""
