"""Files that appear whole or not at all. Knows paths, nothing about what is in them."""

import os
from collections.abc import Callable
from pathlib import Path

READABLE = 0o644  # safetensors creates files for their owner only


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a hidden neighbour of `path`, then rename it; on failure remove it."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        partial.chmod(READABLE)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
