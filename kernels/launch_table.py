"""The launch table: a JSON file of choices by device, which `disca-rt tune` measures and writes.

`{device: {section: ...}}`: the section "ops" has what the kernels are launched with,
`{op: {width: [rows, num_warps, turns] or variant}}`, and "modelled" the same by a model, for what
was not measured. Other sections are their owners'.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from .op_table import OP_ROWS, TUNED

PACKAGED = Path(__file__).with_name("launch_table.json")
ELSEWHERE = "DISCA_RT_LAUNCH_TABLE"
"""Names another file in the environment: where the package's cannot be written."""

OPS = "ops"
MODELLED = "modelled"
"""What `bench.sass.table` chose by the kernels' machine code, for ops that were not measured."""

MAX_WARPS = 32  # of a CUDA block
CONFIG = f"[rows, num_warps] or [rows, num_warps, turns], powers of two, at most {MAX_WARPS} warps"


class LaunchConfig(NamedTuple):
    """`rows` that one program takes at a time, the warps that share them, and how many times.

    A row is a token's values, or SPAN elements where an op is on flat memory. Ops on rows of tokens
    take `turns`, in which they keep vectors of the sample in registers; others have one.
    """

    rows: int
    num_warps: int
    turns: int = 1


Choice = LaunchConfig | str
"""The launch of an op at one width; where the op has variants, the name of one."""

_REMEMBERED: list[Any] = []


def remembered(read: Callable[..., Any]) -> Callable[..., Any]:
    """`read`, whose results are kept until `forget_table`."""
    kept = cache(read)
    _REMEMBERED.append(kept)
    return kept


def forget_table() -> None:
    """Read the file again when something of it is wanted next."""
    for kept in _REMEMBERED:
        kept.cache_clear()


def table_path() -> Path:
    """The file of the table that launches go by."""
    return Path(os.environ.get(ELSEWHERE) or PACKAGED)


def read_ops(
    path: Path | None = None, section: str = OPS
) -> dict[str, dict[str, dict[str, Choice]]]:
    """`{device: {op: {width: choice}}}`; ValueError names what is wrong in the file."""
    path = path or table_path()
    table: dict[str, dict[str, dict[str, Choice]]] = {}
    for device, by_op in read_section(section, path).items():
        for op, by_width in items(path, f"{device}, {section}", by_op):
            if op not in TUNED:
                raise ValueError(
                    f"{path}: {device}: op must be one of {sorted(TUNED)}, got {op!r}; remove it"
                )
            table.setdefault(device, {})[op] = {
                width: _choice(f"{path}: {device}, {op}, {width}", op, value)
                for width, value in items(path, f"{device}, {op}", by_width)
            }
    return table


def _choice(place: str, op: str, value: Any) -> Choice:
    variants = TUNED[op].variants
    if variants and value in variants:
        return value
    if not variants and _is_config(value):
        config = LaunchConfig(*value)
        if config.turns > 1 and TUNED[op].turns == (1,):
            raise ValueError(f"{place}: {op} takes no turns, got {value!r}; make it {value[:2]}")
        return config
    wanted = f"one of {list(variants)}" if variants else CONFIG
    raise ValueError(f"{place}: must be {wanted}, got {value!r}; remove it")


def _is_config(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) in (2, 3)
        and all(type(each) is int and each >= 1 and each & (each - 1) == 0 for each in value)
        and value[1] <= MAX_WARPS
    )


def read_section(section: str, path: Path) -> dict[str, Any]:
    """Contents of `section` by device; ValueError names what is wrong in the file."""
    found = {}
    for device, sections in items(path, "the whole", read_json(path)):
        for name, value in items(path, device, sections):
            if name in OP_ROWS:  # ops had no section of their own until 0.2
                raise ValueError(
                    f"{path}: {device}: {name} must be within {OPS!r}, the file is of an older "
                    "version; make it {} and run tune anew"
                )
            if name == section:
                found[device] = value
    return found


def items(path: Path, place: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of the object at `place` of the file; ValueError where it is none."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{path}: {place}: must be an object, got {value!r}; remove it")
    yield from value.items()


def read_json(path: Path) -> Any:
    """Contents of the file; ValueError says what to do where it cannot be read."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(
            f"no launch table {path}; write it with `disca-rt tune --out`, or unset {ELSEWHERE}"
        ) from error
    except ValueError as error:  # of JSON or of UTF-8
        raise ValueError(f"{path} is not JSON ({error}); make it {{}} and run tune anew") from error
