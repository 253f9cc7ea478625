"""The files of a folder by their names alone, local or on the Hub.

Layouts are recognised by them, and the files to fetch are chosen.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..weights.files.pick import INDEX, SHARD, holds_checkpoint, pick, scale_map_name

DEPTH = 5  # of folders: text_encoder/Glyph-SDXL-v2/checkpoints in ckpts/, and one more
SMALL = (".json", ".txt", ".model", ".jinja")


@dataclass(frozen=True)
class Files:
    """Names of files relative to a folder, with slashes; hidden ones are left out."""

    names: frozenset[str]

    @classmethod
    def of(cls, names: Iterable[str]) -> "Files":
        """`names` less those that are hidden or lie in a hidden folder."""
        return cls(frozenset(n for n in names if not any(p[:1] == "." for p in n.split("/"))))

    @classmethod
    def under(cls, root: Path, is_of_model: Callable[[str], bool]) -> "Files":
        """The files in `root` and in those of its folders whose names `is_of_model`, `DEPTH` deep.

        Links are followed. Other folders are left out, for `root` may be anything.
        """
        names = []
        for folder, inner, files in os.walk(root, followlinks=True):
            place = Path(folder).relative_to(root)
            goes_on = is_of_model if place == Path() else lambda name: name[0] != "."
            inner[:] = filter(goes_on, inner) if len(place.parts) < DEPTH else []
            names += [(place / name).as_posix() for name in files]
        return cls.of(names)

    def inside(self, folder: str) -> "Files":
        """The files below `folder`, relative to it; a last slash may be there."""
        start = f"{folder.rstrip('/')}/" if folder else ""
        return Files(frozenset(n.removeprefix(start) for n in self.names if n.startswith(start)))

    def here(self, folder: str = "") -> list[str]:
        """Names of the files directly in `folder`."""
        return sorted(name for name in self.inside(folder).names if "/" not in name)

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders directly in `folder`."""
        return sorted({n.partition("/")[0] for n in self.inside(folder).names if "/" in n})

    def holds_weights(self, folder: str) -> bool:
        """Tell whether a checkpoint lies directly in `folder`."""
        return holds_checkpoint(self.here(folder))

    def needed(self, place: str) -> list[str]:
        """The files of the part at `place`, a file or a folder: a checkpoint, and what is small."""
        if place in self.names:
            folder, name = str(PurePosixPath(place).parent), PurePosixPath(place).name
            folder = "" if folder == "." else folder
            chosen = self._of_checkpoint(folder, name) | {f"{PurePosixPath(name).stem}.json"}
            chosen |= {"config.json"}
        else:
            folder, names = place, self.here(place)
            chosen = {name for name in names if name.endswith(SMALL)}
            if holds_checkpoint(names):
                chosen = {n for n in chosen if not INDEX.fullmatch(n)}
                chosen |= self._of_checkpoint(folder, pick(names, place))
        there = set(self.here(folder))
        return [f"{folder}/{name}" if folder else name for name in sorted(chosen & there)]

    def _of_checkpoint(self, folder: str, name: str) -> set[str]:
        """The file `name`, its shards and the map of its scales."""
        names = self.here(folder)
        index, shard = INDEX.fullmatch(name), SHARD.fullmatch(name)
        shards = [n for n in names if SHARD.fullmatch(n)] if index or shard else []
        if index:  # of pickles and of .safetensors both may lie there
            end = Path(index["stem"]).suffix
            shards = [n for n in shards if n.endswith(end)] or [n for n in names if n.endswith(end)]
        return {name, scale_map_name(name), *shards}
