"""Settings that a model is sampled with, each with its reason in words.

The table of variants gives the defaults; the tensors of the DiT overrule its name, and the folder's
own configurations overrule the table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ..config import DiTConfig
from ..family import FAMILIES, VIDEO_10, VIDEO_15, Family
from ..schedule import PRESETS, Preset, preset
from ..vae.buckets import BASES, STRIDES, bucket
from .variants import VARIANTS, Size, Variant, named_variant

WIDE = 9, 16  # height to width, where nothing else is said
CLASSIFIER_FREE_SCALE = 6.0  # of a DiT that embeds none
MEANFLOW_ROWS = ("meanflow", "480p_i2v_step_distilled")
# A guider's settings that are followed, or change nothing as they are by default.
GUIDING = {
    "_class_name": "ClassifierFreeGuidance",
    "guidance_rescale": 0.0,
    "start": 0.0,
    "stop": 1.0,
    "use_original_formulation": False,
}
SCHEDULER, GUIDER = "scheduler/scheduler_config.json", "guider/guider_config.json"


@dataclass(frozen=True)
class Settings:
    """Defaults of a model; `reasons` says in words where each comes from, by its name.

    `embedded_scale` is None where the DiT does not take one, `classifier_free_scale` where one pass
    a step is enough. `size` is (frames, height, width). `bucket` is the side of the square that
    sizes of images are as large as; None: no buckets. `preset` names DisCa's, where a predictor is
    there. `note` is what else users should know, or "".
    """

    variant: str
    steps: int
    shift: float
    embedded_scale: float | None
    classifier_free_scale: float | None
    size: Size
    bucket: int | None = None
    preset: str | None = None
    note: str = ""
    reasons: Mapping[str, str] = field(default_factory=dict)

    def schedule(self) -> Preset:
        """The noise levels, with the step list of DisCa's preset where there is one."""
        return PRESETS[self.preset] if self.preset else preset(self.steps, self.shift)


class Evidence(NamedTuple):
    """Facts known of a DiT: its family and task, sizes, names, and its folder's configurations.

    `sidecar` is the content of the config.json beside it; `scheduler` and `guider` those of the
    folder, empty where the DiT is not the folder's own.
    """

    family: Family
    task: str
    config: DiTConfig | None = None
    variant: str | None = None
    names: tuple[str, ...] = ()
    sidecar: Mapping[str, Any] = {}
    scheduler: Mapping[str, Any] = {}
    guider: Mapping[str, Any] = {}
    has_predictor: bool = False


def settle(seen: Evidence) -> Settings:
    """The settings of a model; ValueError lists the variants where an unknown one is named."""
    name, why = _variant(seen)
    row: Variant = VARIANTS[seen.family][name]
    reasons = dict.fromkeys((*Variant._fields[:-1], "variant"), why)
    settled = Settings(name, *row[:6], note=row.note, reasons=reasons)
    for step in (_with_target_size, _with_guidance, _with_scheduler, _with_preset):
        settled = step(settled, seen)
    return settled


def _changed(settled: Settings, why: str, **values: Any) -> Settings:
    return replace(settled, reasons={**settled.reasons, **dict.fromkeys(values, why)}, **values)


def _variant(seen: Evidence) -> tuple[str, str]:
    """The row of the table, and how it was found: as asked for, by name, or by what is there."""
    rows = VARIANTS[seen.family]
    if seen.variant is not None:
        name = seen.variant if seen.variant in rows else named_variant(seen.family, seen.variant)
        if name is None:
            title = FAMILIES[seen.family].title
            raise ValueError(
                f"variant must be one of {', '.join(rows)} for {title}, got {seen.variant!r}"
            )
        return name, f"variant {seen.variant}"
    named = ((each, named_variant(seen.family, each)) for each in seen.names)
    for text, name in named:
        if name is not None and _is_believable(name, seen):
            return name, f"named {text}"
    return _by_facts(seen)


def _is_believable(name: str, seen: Evidence) -> bool:
    """Tell whether a row found by a name agrees with the tensors: MeanFlow shows in them."""
    if seen.config is None:
        return True
    return seen.config.meanflow == (name in MEANFLOW_ROWS)


def _by_facts(seen: Evidence) -> tuple[str, str]:
    if seen.config is not None and seen.config.meanflow:
        name = next(name for name in MEANFLOW_ROWS if name in VARIANTS[seen.family])
        return name, "a MeanFlow DiT (time_r_in)"
    return BY_FACTS[seen.family](seen)


def _ten(seen: Evidence) -> tuple[str, str]:
    if seen.config is not None and seen.config.condition_channels == seen.config.in_channels:
        return "skyreels_i2v", f"a DiT of {seen.config.embed_channels} input channels"
    return seen.task, f"by default for {seen.task}"


def _fifteen(seen: Evidence) -> tuple[str, str]:
    bucket, is_distilled = _target_size(seen), seen.guider.get("guidance_scale") == 1.0
    resolution = "720p" if bucket == BASES[seen.family]["720p"] else "480p"
    where = f"target size {bucket}, {seen.task}" if bucket else f"by default for {seen.task}"
    name = f"{resolution}_{seen.task}{'_distilled' if is_distilled else ''}"
    return name, where + ", CFG-distilled" * is_distilled


BY_FACTS = {VIDEO_10.name: _ten, VIDEO_15.name: _fifteen}


def _target_size(seen: Evidence) -> int | None:
    """Base side of the buckets in the DiT's config.json, by diffusers' key or the official one."""
    size = seen.sidecar.get("target_size")
    resolution = BASES[seen.family].get(str(seen.sidecar.get("ideal_resolution")))
    return size if isinstance(size, int) else resolution


def _with_target_size(settled: Settings, seen: Evidence) -> Settings:
    size = _target_size(seen)
    if size is None or size == settled.bucket or settled.bucket is None:
        return settled
    frames = settled.size[0]
    sides = bucket(*WIDE, size, STRIDES[seen.family])
    return _changed(settled, "config.json of the DiT", bucket=size, size=(frames, *sides))


def _with_guidance(settled: Settings, seen: Evidence) -> Settings:
    """Scales as the DiT and the folder's guider have them."""
    scale = seen.guider.get("guidance_scale")
    if isinstance(scale, int | float):
        is_off = scale == 1.0 or seen.guider.get("enabled") is False
        mixed = None if is_off else float(scale)
        settled = _changed(settled, GUIDER, classifier_free_scale=mixed)
    if unlike := [key for key, usual in GUIDING.items() if seen.guider.get(key, usual) != usual]:
        said = ", ".join(f"{key} {seen.guider[key]}" for key in unlike)
        told = f"{GUIDER} has {said}, which is not followed"
        settled = replace(settled, note="; ".join(filter(None, (settled.note, told))))
    if seen.config is None or settled.embedded_scale is None or seen.config.guidance_embed:
        return settled
    scale = settled.classifier_free_scale
    if seen.task == "t2v":  # image-to-video by concatenated latents runs one pass, of no guidance
        scale = scale or CLASSIFIER_FREE_SCALE
    why = "the DiT embeds no guidance (no guidance_in)"
    return _changed(settled, why, embedded_scale=None, classifier_free_scale=scale)


def _with_scheduler(settled: Settings, seen: Evidence) -> Settings:
    shift = seen.scheduler.get("shift")
    if not isinstance(shift, int | float):
        return settled
    return _changed(settled, SCHEDULER, shift=float(shift))


def _with_preset(settled: Settings, seen: Evidence) -> Settings:
    """DisCa's preset where a predictor is there."""
    if not seen.has_predictor:
        return settled
    name = FAMILIES[seen.family].preset
    row = PRESETS[name]
    why = f"preset {name}, for a predictor is there"
    return _changed(settled, why, preset=name, steps=row.steps, shift=row.shift)
