"""Fitted tables as policies see them: values of options, for one model and one way of sampling.

A rule, a placement or a stand-in that has a class attribute `fitted_in` gets the options that its
user leaves out from the table of that name (`cache/method.py`). Knows no files.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any, Protocol

from torch import Tensor

from ..config import DiTConfig
from ..schedule import shifted

Table = Mapping[str, Any]
"""Values of options by name: numbers, texts, None, and tuples of them."""


class Uncalibrated(ValueError):
    """A policy lacks options that a calibration would give."""


@dataclass(frozen=True)
class Subject:
    """The facts that a calibration holds for; None: not known, so that nothing is compared.

    `weights` is a digest of the DiT's, `latents` are the sides (T, H, W) of a sample, `sigmas` the
    noise levels, and `scales` the embedded and the classifier-free guidance, each None where there
    is none.
    """

    model: DiTConfig
    weights: str | None = None
    latents: tuple[int, int, int] | None = None
    sigmas: tuple[float, ...] | None = None
    scales: tuple[float | None, float | None] | None = None

    @property
    def steps(self) -> int | None:
        """The number of steps."""
        return None if self.sigmas is None else len(self.sigmas) - 1

    @property
    def shift(self) -> float | None:
        """The shift that makes the noise levels of equal steps, or None."""
        if self.steps is None or self.steps < 2:
            return None
        sigma, x = self.sigmas[1], 1 - 1 / self.steps
        if not sigma < 1:
            return None
        shift = round(sigma * (1 - x) / (x * (1 - sigma)), 3)
        return shift if shift > 0 and shifted(self.steps, shift).sigmas == self.sigmas else None

    @property
    def passes(self) -> int | None:
        """The passes of a step, two under classifier-free guidance."""
        return None if self.scales is None else 1 + (self.scales[1] is not None)

    def differences(self, other: "Subject") -> list[str]:
        """The facts in which `other` differs, each with this one's value and the other's."""
        return [f"{what} {mine}, not {its}" for what, mine, its in self._compared(other)]

    def _compared(self, other: "Subject") -> Iterator[tuple[str, Any, Any]]:
        ours, theirs = asdict(self.model), asdict(other.model)
        yield from ((key, ours[key], theirs[key]) for key in ours if ours[key] != theirs[key])
        for name in ("weights", "latents", "passes", "scales", "steps"):
            mine, its = getattr(self, name), getattr(other, name)
            if None not in (mine, its) and mine != its:
                yield name, _shown(mine), _shown(its)
        if self.steps is not None and self.steps == other.steps and self.sigmas != other.sigmas:
            yield self._levels(other)

    def _levels(self, other: "Subject") -> tuple[str, Any, Any]:
        """The difference of noise levels of as many steps: in the shift, or the first of them."""
        if None not in (self.shift, other.shift):
            return "shift", f"{self.shift:g}", f"{other.shift:g}"
        pairs = zip(self.sigmas, other.sigmas, strict=True)
        mine, its = next(pair for pair in pairs if pair[0] != pair[1])
        return "sigmas with", mine, its


def _shown(value: Any) -> str:
    if not isinstance(value, tuple):
        return str(value)
    return "x".join("none" if each is None else f"{each:g}" for each in value)


@dataclass(frozen=True, eq=False)
class Calibration:
    """The tables that were fitted for `subject`, by name. Equal to itself alone, and hashable.

    `source` says where they come from; `load` gives large tensors by "table.name".
    """

    subject: Subject
    tables: Mapping[str, Table]
    source: str = "a calibration"
    load: Callable[[str], Tensor] | None = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of its tables."""
        return sha256(repr(self.tables).encode()).hexdigest()[:16]

    def table(self, name: str | None) -> Table:
        """The options of table `name`; none where there is no such table."""
        return self.tables.get(name, {}) if name is not None else {}

    def tensor(self, name: str) -> Tensor:
        """The tensor "table.name"; `Uncalibrated` where there is none."""
        if self.load is None:
            raise Uncalibrated(f"{self.source} has no tensor {name}; calibrate with it again")
        return self.load(name)

    def nearest(self, subject: Subject) -> "Calibration":
        """This one."""
        return self

    def why_not(self, subject: Subject) -> str:
        """A reason why options were not found."""
        return f"{self.source} has tables {', '.join(sorted(self.tables)) or 'none'}"

    def fitting(self, subject: Subject) -> "Calibration":
        """This one; ValueError says in which facts `subject` differs."""
        differences = self.subject.differences(subject)
        if differences:
            raise ValueError(
                f"{self.source} does not fit this sample: it is of {'; '.join(differences)}; "
                "calibrate for this one (disca-rt calibrate), or leave it out"
            )
        return self


class Calibrations(Protocol):
    """A source of calibrations: one that was named, or several to choose from."""

    def fitting(self, subject: Subject) -> Calibration | None:
        """The calibration for `subject`, or None.

        ValueError where one was named that does not fit.
        """

    def nearest(self, subject: Subject) -> Calibration | None:
        """The calibration that differs from `subject` in the fewest facts; None where none is."""

    def why_not(self, subject: Subject) -> str:
        """A reason why options were not found in it, for the user, or ""."""


@contextmanager
def explained(source: Calibrations, subject: Subject) -> Iterator[None]:
    """Says, where options are missing within, why they were not found in `source`."""
    try:
        yield
    except Uncalibrated as error:
        why = source.why_not(subject)
        raise Uncalibrated(f"{error}; {why}" if why else str(error)) from error
