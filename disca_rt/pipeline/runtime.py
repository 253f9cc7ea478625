"""`Runtime`: the name under which programs embed a pipeline."""

from .pipeline import Pipeline


class Runtime(Pipeline):
    """Pipeline that is loaded once and called many times, embedded in another program."""
