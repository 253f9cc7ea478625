"""`run.json` in a run's folder: its complete config and data, compared before it is resumed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from ..atomic import write_whole
from ..conditioning import Conditioning
from .data import SampleSource
from .latent_shards import LatentShards

SETTINGS = str, int, float, bool  # of a data source that say what it gives
RUN_NAME = "run.json"
MAY_CHANGE = (
    "steps",
    "micro_batch",
    "checkpoint_every",
    "log_every",
    "activation_checkpointing",
    "compile",
    "ops",
)


def describe_run(
    config: Any, data: SampleSource, unconditional: Conditioning | None = None
) -> dict[str, Any]:
    """Describe a stage's config, a frozen dataclass, and its data, in types that JSON has.

    What others follow from comes first: the stage, then its data, then the single settings.
    """
    described = {
        "stage": type(config).__name__,
        "data": _described(data),
        "unconditional": unconditional and _digest(unconditional),
        **asdict(config),
    }
    return json.loads(json.dumps(described))


def write_run(path: Path, description: Mapping[str, Any]) -> None:
    text = json.dumps(description, indent=1) + "\n"
    write_whole(path, lambda partial: partial.write_text(text))


def check_same_run(path: Path, description: Mapping[str, Any], config: Any) -> None:
    """Raise ValueError naming the first setting in which a run is not the one in `path`.

    Settings that change no result may differ.
    """
    saved, ours = _flat(_read(path)), _flat(description)
    defaults = {
        field.name: field.default
        for described in (config, config.run)
        for field in fields(described)
        if field.default is not MISSING
    }
    for name in ours:
        theirs = saved.get(name, defaults.get(name, ours[name]))  # a setting younger than the run
        if theirs != ours[name] and name not in MAY_CHANGE:
            raise ValueError(
                f"{path.parent} holds a run with {name} {theirs}, not {ours[name]}; resume with "
                "the same, or choose another folder"
            )


def _described(data: SampleSource) -> dict[str, Any]:
    name = type(data).__name__
    if isinstance(data, LatentShards):
        return {"type": name, "folder": data.folder.name, "samples": len(data)}
    settings = {f.name: getattr(data, f.name) for f in fields(data)} if is_dataclass(data) else {}
    return {"type": name} | {n: v for n, v in settings.items() if isinstance(v, SETTINGS)}


def _digest(conditioning: Conditioning) -> str:
    digest = hashlib.sha256()
    for name, tensor in conditioning.tensors().items():
        flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(f"{name}{list(tensor.shape)}".encode() + flat.numpy().tobytes())
    return digest.hexdigest()[:16]


def _flat(description: Mapping[str, Any]) -> dict[str, Any]:
    return {**{k: v for k, v in description.items() if k != "run"}, **description["run"]}


def _read(path: Path) -> dict[str, Any]:
    try:
        described = json.loads(path.read_text())
        if not isinstance(described, dict) or not isinstance(described.get("run"), dict):
            raise ValueError("it has no run")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} does not describe a run: {error}") from error
    return described
