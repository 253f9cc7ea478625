"""Facts of a model that its folder's names, headers and configurations tell: family, task, more."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..config import DiTConfig
from ..family import FAMILIES, VIDEO_10, VIDEO_15, Family
from ..weights.checkpoint import read_json_object
from ..weights.errors import CheckpointError
from .layouts.found import Found
from .parts import Part, PartName, Task
from .settings import Evidence
from .variants import VARIANTS

# Class of a pipeline in model_index.json -> family and task.
PIPELINES: dict[str, tuple[Family, Task]] = {
    "HunyuanVideoPipeline": (VIDEO_10.name, "t2v"),
    "HunyuanVideoImageToVideoPipeline": (VIDEO_10.name, "i2v"),
    "HunyuanSkyreelsImageToVideoPipeline": (VIDEO_10.name, "i2v"),
    "HunyuanVideo15Pipeline": (VIDEO_15.name, "t2v"),
    "HunyuanVideo15ImageToVideoPipeline": (VIDEO_15.name, "i2v"),
}
TASK_KEYS = ("task_type", "ideal_task")  # of a DiT's config.json: diffusers' and official
IMAGE_NAMES = ("i2v", "image_to_video", "image2video")
TRANSFORMER_FOLDERS = ("transformer", "transformers")


class Clues(NamedTuple):
    """Sources to read facts from; `label` is the name that people have for the DiT's place."""

    root: Path
    label: str
    found: Found
    parts: Mapping[PartName, Part]
    config: DiTConfig | None
    variant: str | None


def read_clues(clues: Clues) -> Evidence:
    """Raises CheckpointError where family or task cannot be told, or two clues contradict."""
    index = _pipeline(clues.root)
    sidecar = _sidecar(clues.parts.get("dit"))
    names = _names(clues)
    own_place = clues.found.places.get("dit")
    has_own = clues.found.layout == "diffusers" and clues.found.parts.get("dit") == own_place
    return Evidence(
        family=_family(clues, index),
        task=_task(clues, index, sidecar, names),
        config=clues.config,
        variant=_asked_row(clues),
        names=names,
        sidecar=sidecar,
        scheduler=_json(clues.root / "scheduler" / "scheduler_config.json") if has_own else {},
        guider=_json(clues.root / "guider" / "guider_config.json") if has_own else {},
        has_predictor="predictor" in clues.parts,
    )


def _asked_row(clues: Clues) -> str | None:
    """The row of settings asked for; a variant that has chosen among files is a name of theirs."""
    is_row = any(clues.variant in rows for rows in VARIANTS.values())
    return clues.variant if is_row or not clues.found.variant else None


def _json(path: Path) -> Mapping[str, Any]:
    return read_json_object(path) if path.is_file() else {}


def _pipeline(root: Path) -> tuple[Family, Task] | None:
    """Family and task in `model_index.json`; CheckpointError where it is of another model."""
    name = _json(root / "model_index.json").get("_class_name")
    if name is not None and name not in PIPELINES:
        raise CheckpointError(
            f"{root} holds a {name}, which is not one of HunyuanVideo: {', '.join(PIPELINES)}"
        )
    return None if name is None else PIPELINES[name]


def _sidecar(dit: Part | None) -> Mapping[str, Any]:
    if dit is None:
        return {}
    folder = dit.path if dit.path.is_dir() else dit.path.parent
    inner = [folder / name for name in TRANSFORMER_FOLDERS if (folder / name).is_dir()]
    return _json((inner[0] if inner else folder) / "config.json")


def _names(clues: Clues) -> tuple[str, ...]:
    """Names that the DiT goes by: its file, its variant, the folder or the repository it is in."""
    dit, names = clues.parts.get("dit"), [clues.found.variant, clues.label]
    if dit is not None and not dit.path.is_dir():
        names = [dit.path.stem, *names]
    return tuple(filter(None, names))


def _family(clues: Clues, index: tuple[Family, Task] | None) -> Family:
    told = index[0] if index else clues.found.family
    if clues.config is None:
        if told is None:
            raise CheckpointError(f"{clues.root} has no DiT; give one (--dit)")
        return told
    if told not in (None, clues.config.family):
        where = clues.parts["dit"].path
        raise CheckpointError(
            f"{where} is a DiT of {clues.config.traits.title}, and {clues.root} is a folder of "
            f"{FAMILIES[told].title}; give two of one model"
        )
    return clues.config.family


def _task(
    clues: Clues,
    index: tuple[Family, Task] | None,
    sidecar: Mapping[str, Any],
    names: tuple[str, ...],
) -> Task:
    """Text- or image-to-video: as the DiT itself says, else its folder."""
    for key in TASK_KEYS:
        if sidecar.get(key) in ("t2v", "i2v"):
            return sidecar[key]
    config = clues.config
    is_ten = config is not None and not config.traits.has_glyphs
    if is_ten and (config.condition_channels or config.token_replace):
        return "i2v"
    if any(word in name.lower() for name in names for word in IMAGE_NAMES):
        return "i2v"
    return clues.found.task or (index[1] if index else "t2v")
