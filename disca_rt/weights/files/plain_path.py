"""A path that PyTorch can open: its C++ takes UTF-8 alone, the file system takes any bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def plain_path(path: Path) -> Iterator[str]:
    """The name of `path` or, where that is not UTF-8, of a link to it while the block runs."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with TemporaryDirectory() as folder:
            link = Path(folder) / "link"
            link.symlink_to(path.absolute())
            yield str(link)
    else:
        yield str(path)
