"""Files that appear whole or not at all. Knows paths, nothing about what is in them."""

import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from .errors import first_line

READABLE = 0o644  # safetensors creates files for their owner only

Writer = Callable[[Path], object]


def write_whole(path: Path, write: Writer) -> None:
    """Let `write` fill a hidden neighbour of `path`, then rename it; see `write_all`."""
    write_all({path: write})


def write_all(writers: Mapping[Path, Writer]) -> None:
    """Write every file beside its place, then rename them all: all are there, or none.

    Missing folders are made. Neighbours have names of their own, so that two jobs with one `path`
    do not meet: the last to end wins. Whatever goes wrong, what was begun is removed, folders too;
    a failure to write is an OSError that names the file.
    """
    made: list[Path] = []
    partials = {path: _partial(path) for path in writers}
    try:
        for path, write in writers.items():
            _make_folders(path.parent, made)
            _write(path, partials[path], write)
        for path, partial in partials.items():
            os.replace(partial, path)
        made.clear()
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)
        _remove_empty(made)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a hidden neighbour of `path` for what is written piece by piece, a file or a folder.

    At the end it is renamed to `path`. Whatever goes wrong within, it is removed, with the folders
    that were made for it, and what `path` held stays. An empty folder at `path` is replaced.
    """
    made: list[Path] = []
    partial = _partial(path)
    try:
        _make_folders(path.parent, made)
        yield partial
        os.replace(partial, path)
        made.clear()
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)
        _remove_empty(made)


def check_writable(path: Path) -> None:
    """Raise OSError, in one line, unless `write_whole` could write `path`; leaves no trace.

    Missing folders are tried in a folder of their own, for several processes may ask at once.
    """
    if os.path.isdir(path):  # Path's own raises where a name is too long
        raise IsADirectoryError(f"is a folder: {path}; name a file in it")
    try:
        anchor = next(folder for folder in path.parents if os.path.lexists(folder))
        with TemporaryDirectory(dir=anchor) as trial:
            copy = Path(trial) / path.relative_to(anchor)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.touch()
    except OSError as error:
        raise OSError(f"cannot be written: {path} ({error.strerror})") from error
    if path.exists() and not path.is_file():
        raise OSError(f"cannot be written: {path} (it is no ordinary file)")
    if _is_anothers(path):
        raise OSError(f"cannot be written: {path} (it is another user's, in a shared folder)")


def _is_anothers(path: Path) -> bool:
    """Tell whether a sticky folder, such as /tmp, keeps this user from replacing the file."""
    user, folder = os.geteuid(), path.parent
    if user == 0 or not os.path.lexists(path) or not folder.stat().st_mode & stat.S_ISVTX:
        return False
    return user not in (path.lstat().st_uid, folder.stat().st_uid)


def _partial(path: Path) -> Path:
    """Name of a hidden neighbour that nobody else has, legal where that of `path` is."""
    return path.with_name(f".{path.name[:20]}.{secrets.token_hex(4)}.partial")


def _write(path: Path, partial: Path, write: Writer) -> None:
    try:
        write(partial)
        partial.chmod(READABLE)
    except Exception as error:  # each library has its own error for a full disk
        raise OSError(f"cannot write {path}: {first_line(error)}") from error


def _make_folders(folder: Path, made: list[Path]) -> None:
    """Create `folder` and its parents; the new ones are added to `made`, outermost first."""
    for part in [part for part in (folder, *folder.parents) if not part.exists()][::-1]:
        part.mkdir(exist_ok=True)
        made.append(part)


def _remove_empty(folders: list[Path]) -> None:
    for folder in reversed(folders):
        with suppress(OSError):  # another job's files are in it
            folder.rmdir()
