"""Places where calibrations lie, and the one among them that fits a sample.

They are searched beside the model and in the user's cache folder, the newest file first.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..cache.calibration import Calibration, Calibrations, Subject

FOLDER = "calibrations"
NONE = "none"  # in the place of a file's name


def cache_folder() -> Path:
    """The user's folder of calibrations."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "disca-rt" / FOLDER


def usual_path(subject: Subject) -> Path:
    """The file in the user's folder for `subject`, the same for equal ones."""
    digest = hashlib.sha256(repr(subject).encode()).hexdigest()[:12]
    return cache_folder() / f"{subject.model.variant}-{subject.steps}-steps-{digest}.json"


@dataclass(frozen=True)
class Found:
    """The calibrations in `folders`; files among them that are none are passed over."""

    folders: Sequence[Path]

    def fitting(self, subject: Subject) -> Calibration | None:
        """The newest one that fits, or None."""
        return next((each for each in self._all() if not each.subject.differences(subject)), None)

    def nearest(self, subject: Subject) -> Calibration | None:
        """The one that differs from `subject` in the fewest facts, or None."""

        def distance(each: Calibration) -> int:
            return len(each.subject.differences(subject))

        return min(self._all(), key=distance, default=None)

    def why_not(self, subject: Subject) -> str:
        """The one that is nearest, and what it is of; "" where there is none."""
        if (each := self.nearest(subject)) is None:
            return ""
        differences = each.subject.differences(subject)
        if differences:
            return f"{each.source} is of {'; '.join(differences)}"
        return each.why_not(subject)

    def _all(self) -> Iterator[Calibration]:
        paths = [path for folder in self.folders for path in folder.glob("*.json")]
        dated = [(path.stat().st_mtime_ns, path) for path in paths]
        for time, path in sorted(dated, key=lambda each: each[0], reverse=True):
            if (found := _read(path, time)) is not None:
                yield found


@lru_cache(maxsize=64)
def _read(path: Path, time: int) -> Calibration | None:
    """The calibration in `path` as of `time`, or None: read once until it changes."""
    from .file import read_calibration  # with packages that a bench does without

    try:
        return read_calibration(path)
    except ValueError:
        return None


def choose(named: str | None, *beside: Path) -> Calibrations | None:
    """The calibration in file `named`; nothing for "none"; for None those that `search` finds.

    ValueError for a file that is no calibration.
    """
    if named is None:
        return search(*beside)
    if named == NONE:
        return None
    from .file import read_calibration  # with packages that a bench does without

    return read_calibration(Path(named))


def search(*beside: Path) -> Found:
    """The calibrations beside models in the folders `beside`, and the user's."""
    return Found((*(folder / FOLDER for folder in beside), cache_folder()))
