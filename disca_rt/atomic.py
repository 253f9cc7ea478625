"""Files that appear whole or not at all. Knows paths, nothing about what is in them."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

READABLE = 0o644  # safetensors creates files for their owner only

Writer = Callable[[Path], object]


def write_whole(path: Path, write: Writer) -> None:
    """Let `write` fill a hidden neighbour of `path`, then rename it; see `write_all`."""
    write_all({path: write})


def write_all(writers: Mapping[Path, Writer]) -> None:
    """Write every file beside its place, then rename them all: all are there, or none.

    Missing folders are made. Whatever goes wrong, what was begun is removed, folders too; a
    failure to write is an OSError that names the file.
    """
    made: list[Path] = []
    partials = {path: path.with_name(f".{path.name}.partial") for path in writers}
    try:
        for path, write in writers.items():
            made += _make_folders(path.parent)
            _write(path, partials[path], write)
        for path, partial in partials.items():
            os.replace(partial, path)
        made.clear()
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)
        for folder in reversed(made):
            folder.rmdir()


def _write(path: Path, partial: Path, write: Writer) -> None:
    try:
        write(partial)
        partial.chmod(READABLE)
    except Exception as error:  # each library has its own error for a full disk
        raise OSError(f"cannot write {path}: {error}") from error


def _make_folders(folder: Path) -> list[Path]:
    """Create `folder` and its parents; returns the new ones, outermost first."""
    missing = [part for part in (folder, *folder.parents) if not part.exists()][::-1]
    folder.mkdir(parents=True, exist_ok=True)
    return missing
