"""The record of a judging: JSON lines that are gone on with after an interruption, and references.

A line is written whole, and once a clip is judged. Lines of another model, other prompts or other
noise are refused, not mixed.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from ..atomic import whole, write_whole
from .subject import Subject

Line = dict[str, Any]


class Record:
    """Lines of `path`; `references` are in a folder beside it."""

    def __init__(self, path: Path) -> None:
        self.path, self.lines = path, _read(path)
        self._folder = path.with_suffix(".references")

    def admit(self, subject: Subject) -> None:
        """Begin or go on with a subject; ValueError names the fact in which its lines differ."""
        for line in self.of("subject", subject.name):
            before = line["facts"]
            for key in before | subject.facts:
                if before.get(key) != subject.facts.get(key):
                    raise ValueError(
                        f"{self.path} was written with {key} {before.get(key)!r}, now it is "
                        f"{subject.facts.get(key)!r}; give another --out, or remove it"
                    )
            return
        named = {"subject": subject.name, "title": subject.title}
        self.add({"kind": "subject", **named, "facts": subject.facts})

    def of(self, kind: str, subject: str, policy: str | None = None) -> list[Line]:
        """The lines of a kind, of a subject and, where it is given, of a policy."""
        return [
            line
            for line in self.lines
            if line["kind"] == kind
            and line["subject"] == subject
            and policy in (None, line.get("policy"))
        ]

    def add(self, line: Line) -> None:
        """Add one line, on disk before it counts."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(line)

    def keep_reference(
        self, subject: str, number: int, latents: Tensor, frames: Tensor | None
    ) -> None:
        """Keep the sample without a cache."""
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = {"latents": latents.contiguous()}
        if frames is not None:
            tensors["frames"] = frames.contiguous()
        with whole(self._reference(subject, number)) as partial:
            save_file(tensors, partial)

    def reference(self, subject: str, number: int) -> Mapping[str, Tensor]:
        """The sample without a cache: `latents`, and `frames` uint8 where there are any."""
        return load_file(self._reference(subject, number))

    def _reference(self, subject: str, number: int) -> Path:
        return self._folder / f"{subject}-{number}.safetensors"


def _read(path: Path) -> list[Line]:
    """The lines there are; one that was cut off is removed from the file."""
    if not path.is_file():
        return []
    text = path.read_text()
    ended = text[: text.rfind("\n") + 1]
    if ended != text:
        write_whole(path, lambda partial: partial.write_text(ended))
    return [json.loads(line) for line in ended.splitlines()]
