"""Kinds of files of what methods learn, by their headers: what one is, and who takes it."""

from pathlib import Path
from typing import NamedTuple

from . import adjustment_file, gate_file, map_file, network_file
from .learned_file import SIZES


class Kind(NamedTuple):
    """Contents of a format's files in words, and the option that takes such a file, by method."""

    holds: str
    options: dict[str, str]


GATES = {"l2c": "gates", "harmonica": "gates", "lazydit": "heads"}
KINDS = {
    gate_file.FORMAT: Kind("learned gates, or heads, of branches", GATES),
    network_file.FORMAT: Kind("a network that chooses steps", {"blockdance-ada": "net"}),
    adjustment_file.FORMAT: Kind("scales and shifts of blocks", {"block-caching": "scale_shift"}),
    map_file.FORMAT: Kind("linear maps in place of blocks", {"fastcache": "maps"}),
}
"""The kinds by the format in a file's metadata."""


class About(NamedTuple):
    """Facts of a file: what it `holds`, `sizes` of its model by name, `shapes` of its tensors."""

    holds: str
    version: str
    method: str
    policy: str
    sizes: dict[str, str]
    shapes: dict[str, list[int]]


def about(path: Path) -> About | None:
    """Read the facts of the file at `path` from its header; None where it is of no such kind."""
    from safetensors import SafetensorError, safe_open  # a package that a bench does without

    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    kind = KINDS.get(facts.get("format", ""))
    if kind is None:
        return None
    method = facts.get("method", "")
    option = kind.options.get(method, next(iter(kind.options.values())))
    policy = f"--policy {method}:{option}={path}"
    sizes = {name: facts.get(name, "not said") for name in SIZES}
    return About(kind.holds, facts.get("version", "not said"), method, policy, sizes, shapes)
