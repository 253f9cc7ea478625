"""A calibration as a file: one JSON, and a `.safetensors` beside it for large tensors.

The JSON says what it is of (`subject`), what it was made from (`made`), and holds the tables.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..atomic import write_all
from ..cache.calibration import Calibration, Subject, Uncalibrated
from ..config import DiTConfig
from .check import check_tables
from .tables import Tables

KIND, VERSION = "disca-rt calibration", 1


def write_calibration(path: Path, subject: Subject, tables: Tables, made: Mapping) -> list[Path]:
    """Write `path`, and its tensors where there are any, whole or not at all; gives the paths."""
    content = {
        "kind": KIND,
        "version": VERSION,
        "subject": asdict(subject),
        "made": dict(made),
        "tables": tables.values,
    }
    text = json.dumps(content, allow_nan=False) + "\n"
    writers = {path: lambda partial_path: partial_path.write_text(text)}
    if tables.tensors:
        tensors = {name: each.contiguous() for name, each in tables.tensors.items()}
        writers[tensors_of(path)] = partial(save_file, tensors)
    write_all(writers)
    return list(writers)


def tensors_of(path: Path) -> Path:
    """The file of the large tensors of a calibration."""
    return path.with_suffix(".safetensors")


def read_calibration(path: Path) -> Calibration:
    """The calibration in `path`; ValueError for what is none or of another version."""
    content = _json(path)
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise ValueError(f"{path} is no calibration; give a file that disca-rt calibrate wrote")
    if content.get("version") != VERSION:
        raise ValueError(
            f"calibration {path} has version {content.get('version')}, and this program reads "
            f"{VERSION}; calibrate again"
        )
    try:
        subject = _subject(content["subject"])
        tables = {name: _tuples(table) for name, table in content["tables"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"calibration {path} is damaged ({error}); calibrate again") from error
    check_tables(f"calibration {path}", tables)
    return Calibration(subject, tables, f"calibration {path}", partial(_tensor, path))


def _json(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"--calibration {path} is not a file; make one: disca-rt calibrate")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no calibration: it is no JSON ({error})") from error


def _subject(facts: dict[str, Any]) -> Subject:
    values = {key: _tuples(value) for key, value in facts.items()}
    return Subject(**values | {"model": DiTConfig(**values["model"])})


def _tuples(value: Any) -> Any:
    """`value` with tuples in place of its lists: options are hashable."""
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    if isinstance(value, dict):
        return {key: _tuples(each) for key, each in value.items()}
    return value


def _tensor(path: Path, name: str) -> Tensor:
    beside = tensors_of(path)
    if beside.is_file():
        with safe_open(beside, "pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118 - it is no mapping
                return tensors.get_tensor(name)
    raise Uncalibrated(f"{beside} has no {name}; calibrate again with --maps")
