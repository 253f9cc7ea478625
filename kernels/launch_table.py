"""The launch table: where it is and what may be in it. `disca-rt tune` writes it."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PACKAGED = Path(__file__).with_name("launch_table.json")
ELSEWHERE = "DISCA_RT_LAUNCH_TABLE"
"""Names another file in the environment: where the package's cannot be written."""

MAX_WARPS = 32  # of a CUDA block
CONFIG = f"[rows, num_warps], powers of two, at most {MAX_WARPS} warps"

ATTENTION = "attention"
"""Beside the ops: by head width, backends of `attention.py`, the fastest first."""

ATTENTION_BACKENDS = "sdpa", "cudnn", "flash", "efficient", "fa2", "fa3", "fa4"

Table = dict[str, dict[str, dict[str, list[int] | list[str] | str]]]
"""`{device: {op: {width: [rows, num_warps] or variant}}}`."""


def table_path() -> Path:
    """Of the table that launches go by."""
    return Path(os.environ.get(ELSEWHERE) or PACKAGED)


def read_table(path: Path | None = None) -> Table:
    """The table at `path`, by default at `table_path()`; ValueError names what is wrong in it."""
    path = path or table_path()
    try:
        table = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(
            f"no launch table {path}; write it with `disca-rt tune --out`, or unset {ELSEWHERE}"
        ) from error
    except ValueError as error:  # of JSON or of UTF-8
        raise ValueError(f"{path} is not JSON ({error}); make it {{}} and run tune anew") from error
    _check(path, table)
    return table


def _check(path: Path, table: Any) -> None:
    from .tune import variants  # imports what imports this file

    known = {**variants(), ATTENTION: ()}
    for device, ops in _items(path, "the whole", table):
        for op, widths in _items(path, device, ops):
            if op not in known:
                raise ValueError(
                    f"{path}: {device}: op must be one of {sorted(known)}, got {op!r}; remove it"
                )
            for width, choice in _items(path, f"{device}, {op}", widths):
                names = known[op]
                if op == ATTENTION:
                    is_right, wanted = _is_order(choice), f"some of {list(ATTENTION_BACKENDS)}"
                elif names:
                    is_right, wanted = choice in names, f"one of {list(names)}"
                else:
                    is_right, wanted = _is_config(choice), CONFIG
                if not is_right:
                    raise ValueError(
                        f"{path}: {device}, {op}, {width}: must be {wanted}, got {choice!r}; "
                        "remove it"
                    )


def _items(path: Path, place: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{path}: {place}: must be an object, got {value!r}; remove it")
    yield from value.items()


def _is_order(choice: Any) -> bool:
    return isinstance(choice, list) and bool(choice) and set(choice) <= set(ATTENTION_BACKENDS)


def _is_config(choice: Any) -> bool:
    return (
        isinstance(choice, list)
        and len(choice) == 2
        and all(type(each) is int and each >= 1 and each & (each - 1) == 0 for each in choice)
        and choice[1] <= MAX_WARPS
    )
