"""Places where calibrations lie, and the one among them that fits a sample.

They are searched beside the model and in the user's cache folder, the newest file first.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..cache.calibration import Calibration, Subject

FOLDER = "calibrations"


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

    def why_not(self, subject: Subject) -> str:
        """The one that is nearest, and what it is of; "" where there is none."""
        each = min(
            self._all(), key=lambda each: len(each.subject.differences(subject)), default=None
        )
        if each is None:
            return ""
        differences = each.subject.differences(subject)
        if differences:
            return f"{each.source} is of {'; '.join(differences)}"
        return each.why_not(subject)

    def _all(self) -> Iterator[Calibration]:
        from .file import read_calibration  # with packages that a bench does without

        paths = [path for folder in self.folders for path in folder.glob("*.json")]
        for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True):
            try:
                yield read_calibration(path)
            except ValueError:
                continue


def search(*beside: Path) -> Found:
    """The calibrations beside models in the folders `beside`, and the user's."""
    return Found((*(folder / FOLDER for folder in beside), cache_folder()))
