"""A checkpoint described without loading its weights."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from ..config import DiTConfig, PredictorConfig
from ..family import FAMILIES, Family
from ..models.build import build_dit, build_predictor
from .assign import assign
from .checkpoint import open_checkpoint
from .hub import resolve
from .identify import Model, identify
from .layouts.table import Kind


@dataclass(frozen=True)
class CheckpointInfo:
    """`dtypes` counts tensors by dtype, `parameters` their elements.

    `variant` is base, cfg-distilled or meanflow, or predictor. `encoding` is how weights are
    written down: plain, or a way of FP8. `missing_for_disca` says in plain
    words what DisCa's presets want and the checkpoint lacks.
    """

    paths: tuple[Path, ...]
    layout: str
    kind: Kind
    config: DiTConfig | PredictorConfig
    dtypes: Mapping[str, int]
    parameters: int
    family: Family
    variant: str
    encoding: str
    missing_for_disca: tuple[str, ...]


def inspect_checkpoint(source: str | Path) -> CheckpointInfo:
    """Raises CheckpointError for everything that loading would, except values in the tensors."""
    model = identify(open_checkpoint(resolve(source)))
    config, specs = model.config, model.checkpoint.specs
    return CheckpointInfo(
        paths=model.checkpoint.files,
        layout=_layout_name(model),
        kind=model.layout.kind,
        config=config,
        dtypes=Counter(spec.dtype for spec in specs.values()),
        parameters=sum(prod(spec.shape) for spec in specs.values()),
        family=config.family,
        variant=config.variant if isinstance(config, DiTConfig) else "predictor",
        encoding="plain" if model.encoding is None else model.encoding.name,
        missing_for_disca=_missing_for_disca(config),
    )


def _layout_name(model: Model) -> str:
    config = model.config
    module = build_dit(config) if isinstance(config, DiTConfig) else build_predictor(config)
    copies = assign(model, module)
    if not model.layout.own_names:
        return model.layout.name
    own = all(copy.source == copy.target for copy in copies)
    is_merged = FAMILIES[config.family].merged_qkv
    kinds = {(True, True): " merged", (True, False): " tensor-parallel", (False, False): " packed"}
    return model.spelling + kinds.get((is_merged, own), "")


def _missing_for_disca(config: DiTConfig | PredictorConfig) -> tuple[str, ...]:
    if isinstance(config, PredictorConfig):
        return ()
    missing = []
    if not config.meanflow:
        missing.append(
            "time_r_in: not a MeanFlow model; DisCa's presets want a MeanFlow-distilled model"
        )
    if config.traits.embeds_guidance and not config.guidance_embed:
        missing.append(
            "guidance_in: no embedded guidance; guidance then costs a second forward per step"
        )
    return tuple(missing)
