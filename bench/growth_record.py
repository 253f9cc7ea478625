"""Lines of `bench.growth`: one for each contender and size, called "who: size". Knows no clock."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from disca_rt.measure.record import Record

from .growth_work import AXES, CONFIG, RANKS, TEXT, Amount, Observed

GROWTH = "growth"
OURS, THEIRS = "ours", "diffusers"
SAMPLES = 5


def described(axis: str, smallest: Amount) -> dict[str, Any]:
    """Fields that a comparison along `axis` has beside its contenders."""
    shape = {
        "model": "random, of 1.0's kind",
        "smallest": smallest._asdict(),
        "text tokens": TEXT,
        "hidden": CONFIG.hidden,
        "heads": CONFIG.heads,
        "blocks": f"{CONFIG.double}+{CONFIG.single}",
    }
    return {
        "name": f"{GROWTH}, {axis}",
        "shape": shape,
        "dtype": "float32",
        "samples": SAMPLES,
    }


def finished(record: Record, seen: Mapping[str, Observed]) -> Record:
    """`record` with what was observed of its contender."""
    observed = seen[record.contender]
    memory = {"activations": observed.peak_bytes}
    return replace(record, memory=memory, operators=observed.operators)


class Curve(NamedTuple):
    """Lines of one contender along one axis, the smallest first."""

    axis: str
    who: str
    records: tuple[Record, ...]

    @property
    def sizes(self) -> list[int]:
        return [size_of(record) for record in self.records]

    @property
    def peaks(self) -> list[int]:
        """Bytes beyond weights and inputs."""
        return [record.memory["activations"] for record in self.records]


def size_of(record: Record) -> int:
    return int(record.contender.partition(": ")[2])


def curves(records: Sequence[Record]) -> list[Curve]:
    """Curves of `records`, in the order of the axes, diffusers' first."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        axis = record.benchmark.partition(", ")[2]
        found.setdefault((axis, record.contender.partition(": ")[0]), []).append(record)
    ordered = sorted(found, key=lambda key: ((*AXES, RANKS).index(key[0]), key[1]))
    return [Curve(*key, tuple(sorted(found[key], key=size_of))) for key in ordered]
