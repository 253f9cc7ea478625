"""Texts of errors that others raised, made fit for one line."""


def first_line(error: BaseException) -> str:
    """First line of `error`'s message that is not blank, or its type where there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)
