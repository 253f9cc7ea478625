"""Recorded numbers on disk, one file for a prompt's sample under one run: so a recording resumes.

A file's key says what it was recorded from; a file with another key is recorded again.
"""

import hashlib
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..atomic import write_whole
from ..cache.calibration import Subject
from ..pipeline.request import Request
from .record import Numbers

KEY = "key"


def key_of(subject: Subject, request: Request, content: str) -> str:
    """The key of what a run records of `request`: by its subject, noise and texts."""
    digest = hashlib.sha256(f"{subject}\n{content}".encode())
    tensors = [request.latents, *(t for each in request.conditionings for t in _tensors(each))]
    for tensor in tensors:
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _tensors(conditioning: object) -> list:
    return [each for each in vars(conditioning).values() if hasattr(each, "detach")]


class Store:
    """The files of a recording, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, prompt: int, run: str) -> Path:
        return self.folder / f"prompt-{prompt:03d}-{run}.safetensors"

    def read(self, path: Path, key: str) -> Numbers | None:
        """The numbers in `path`, or None where they are not there, or of another key."""
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as tensors:
                if (tensors.metadata() or {}).get(KEY) != key:
                    return None
                return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            return None

    def write(self, path: Path, key: str, numbers: Numbers) -> None:
        """Write `path`, whole or not at all."""
        named = {name: each.contiguous() for name, each in numbers.items()}
        write_whole(path, lambda partial: save_file(named, partial, metadata={KEY: key}))
