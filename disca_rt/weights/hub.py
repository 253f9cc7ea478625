"""Resolves what a user names to a local path: one that is there, or a reference to the Hub.

References are `owner/name`, `owner/name:path/inside` and `hf://owner/name/path/inside@revision`.
Only the checkpoint's own files are fetched, through the optional `huggingface_hub`.
"""

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from .checkpoint import read_weight_map
from .errors import CheckpointError, first_line
from .files.formats import ENDINGS, others_among
from .files.pick import (
    DIT_FOLDERS,
    INDEX,
    SUFFIXES,
    holds_checkpoint,
    pick,
    scale_map_name,
    shard_names,
)

_PART = r"[A-Za-z0-9][\w.-]*"
SHORT = re.compile(rf"(?P<repo>{_PART}/{_PART})(?::(?P<inside>[^@]+))?(?:@(?P<revision>.+))?")
LONG = re.compile(rf"hf://(?P<repo>{_PART}/{_PART})(?:/(?P<inside>[^@]+))?(?:@(?P<revision>.+))?")
CHECKPOINT_ENDINGS = (*SUFFIXES, ".json")


class Reference(NamedTuple):
    """A place on the Hub; `inside` is a file or a folder of the repository, or ''."""

    repo: str
    inside: str
    revision: str | None


def resolve(source: str | Path) -> Path:
    """The local path of `source`, downloaded if it is a Hub reference.

    Raises CheckpointError where it is neither a path that exists nor a reference that can be had.
    """
    if exists(source):
        return Path(source)
    reference = parse_reference(str(source)) if isinstance(source, str) else None
    if reference is None:
        raise CheckpointError(
            f"no such file: {source}; name a file, a folder, or a Hub reference "
            "(owner/name:path/inside or hf://owner/name/path/inside@revision)"
        )
    return _fetch(reference, str(source))


def fetch_files(
    reference: Reference, source: str, choose: Callable[[list[str]], Iterable[str]]
) -> Path:
    """Fetch the files that `choose` takes of all in the reference's folder; returns that folder.

    Names are relative to the folder. Where none is taken, nothing is fetched and the path means
    nothing. Raises CheckpointError as `resolve`.
    """
    return _of_hub(reference, source, lambda repository: repository.fetch_files(choose))


def exists(source: str | Path) -> bool:
    """Tell whether `source` is a path that is there; False for what can be no path."""
    try:
        return str(source) != "" and os.path.lexists(source)
    except (OSError, ValueError):  # longer than a path may be, or with a NUL
        return False


def parse_reference(text: str) -> Reference | None:
    """Parse a Hub reference; None where `text` looks like a path that is not there instead."""
    match = LONG.fullmatch(text) or SHORT.fullmatch(text)
    if match is None:
        return None
    reference = Reference(match["repo"], (match["inside"] or "").strip("/"), match["revision"])
    owner, name = reference.repo.split("/")
    looks_local = name.endswith(CHECKPOINT_ENDINGS) or Path(owner).is_dir()
    return None if looks_local and not text.startswith("hf://") else reference


def _fetch(reference: Reference, source: str) -> Path:
    return _of_hub(reference, source, lambda repository: repository.fetch())


def _of_hub(reference: Reference, source: str, get: "Callable[[_Repository], Path]") -> Path:
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError(
            f"no such file: {source}; as a Hub reference it needs huggingface_hub: "
            "pip install huggingface_hub"
        ) from error
    try:
        return get(_Repository(huggingface_hub, reference))
    except CheckpointError:
        raise
    except Exception as error:  # network, authorisation, disk: the library has a type for each
        raise CheckpointError(
            f"{source} could not be fetched from the Hub ({first_line(error)}); check the "
            "reference, the network and the login, or download it and give its path"
        ) from error


class _Repository:
    def __init__(self, hub: Any, reference: Reference) -> None:
        self.hub, self.reference = hub, reference

    def fetch(self) -> Path:
        file = PurePosixPath(self.reference.inside)
        if file.suffix in ENDINGS:
            raise CheckpointError(f"{file}: no checkpoint to fetch{others_among([file.name])}")
        if not file.name.endswith(CHECKPOINT_ENDINGS):
            file = self._pick(file)
        path = self._download(file)
        self._download_if_there(file.with_name("config.json"))
        is_index = INDEX.fullmatch(file.name) is not None
        others = set(read_weight_map(path).values()) if is_index else shard_names(file.name)
        for shard in sorted({*others} - {file.name}):
            self._download(file.with_name(shard))
        self._download_if_there(file.with_name(scale_map_name(file.name)))
        return path

    def fetch_files(self, choose: Callable[[list[str]], Iterable[str]]) -> Path:
        start = PurePosixPath(self.reference.inside)
        files = [PurePosixPath(name) for name in self._list()]
        inside = [str(file.relative_to(start)) for file in files if file.is_relative_to(start)]
        root = Path()
        for name in sorted(set(choose(inside))):
            path = self._download(start / name)
            root = path.parents[len(PurePosixPath(name).parts) - 1]
        return root

    def _pick(self, folder: PurePosixPath) -> PurePosixPath:
        """The checkpoint of `folder`, or of the DiT's folder in a pipeline's."""
        files = [PurePosixPath(file) for file in self._list()]
        folders = [folder, *(folder / name for name in DIT_FOLDERS)]
        names = {each: [file.name for file in files if file.parent == each] for each in folders}
        folder = next((each for each in folders if holds_checkpoint(names[each])), folder)
        return folder / pick(names[folder], f"{self.reference.repo}:{self.reference.inside}")

    def _list(self) -> list[str]:
        """The repository's files or, where the Hub does not answer, its cached snapshot's."""
        repo, revision = self.reference.repo, self.reference.revision
        try:
            return self.hub.HfApi().list_repo_files(repo, revision=revision)
        except self.hub.errors.HfHubHTTPError:  # an answer: no such repository, or not for you
            raise
        except Exception:
            try:
                cached = self.hub.snapshot_download(repo, revision=revision, local_files_only=True)
            except Exception:  # nothing is cached: the first error tells more
                cached = None
            if cached is None:
                raise
        inside = (path for path in Path(cached).rglob("*") if path.is_file())
        return [path.relative_to(cached).as_posix() for path in inside]

    def _download(self, file: PurePosixPath) -> Path:
        return Path(
            self.hub.hf_hub_download(
                self.reference.repo, str(file), revision=self.reference.revision
            )
        )

    def _download_if_there(self, file: PurePosixPath) -> None:
        errors = self.hub.errors
        with suppress(errors.EntryNotFoundError, errors.LocalEntryNotFoundError):
            self._download(file)
