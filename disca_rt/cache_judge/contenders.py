"""The policies that the embedded model is judged on: each method at several strengths.

By subject: the base's 50 steps with guidance, where costs are in steps of two passes, and the
distilled model's 20. Strengths are chosen for costs of 3 to 10 full steps where a method can be had
so cheap on this model, whose attention is a small part; others are judged as they were published.
Options that are left out are those of the model's own calibration.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

STEP_LISTS = {
    10: "0,1,2,5,9,11,13,15,17,19",
    8: "0,1,2,5,9,13,17,19",
    6: "0,1,2,8,13,19",
    5: "0,1,6,11,16",
    4: "0,1,7,13",
    3: "0,1,10",
}
"""Of 20 steps, by the number of full ones: DisCa's two, then lists that leave wider gaps."""

ON_LISTS = (
    "reuse",
    "taylor",
    "hermite",
    "half-taylor",
    "ab-cache",
    "omnicache",
    "freqca",
    "hyca",
    "taylorseer",
    "hicache",
    "foca",
    "fora",
)
"""Methods whose full steps may be any list."""

LEARNED = "disca", "disca-fed"

INTERVALS: Mapping[str, str] = {
    "reuse": "interval",
    "taylor": "interval",
    "hermite": "interval",
    "half-taylor": "interval",
    "ab-cache": "interval",
    "omnicache": "interval",
    "freqca": "interval",
    "hyca": "fresh_threshold",
    "taylorseer": "fresh_threshold",
    "taylorseer-hidden": "fresh_threshold",
    "taylorseer-lite": "cache_interval",
    "hicache": "fresh_threshold",
    "foca": "fresh_threshold",
    "fora": "fresh_threshold",
    "delta-dit": "interval",
    "deepcache": "cache_interval",
    "toca": "fresh_threshold",
    "duca": "fresh_threshold",
    "clusca": "fresh_threshold",
    "tokencache": "fresh_threshold",
}
"""Methods with a full step at an interval, and the name of that option."""

NO_LISTS = tuple(name for name in INTERVALS if name not in ON_LISTS)

THRESHOLDS: Mapping[str, Sequence[str]] = {
    "teacache": ("rel_l1_thresh=0.1", "rel_l1_thresh=0.2", "rel_l1_thresh=0.5"),
    "magcache": (
        "thresh=0.24,K=6",
        "thresh=0.4,K=8,retention_ratio=0.1",
        "thresh=1,K=12,retention_ratio=0.06",
    ),
    "ertacache": ("threshold=0.15", "threshold=0.25", "threshold=0.4"),
    "omnicache": ("full_steps=8",),
    "profilingdit": (
        "step_start=2,min_interval=1,max_interval=3",
        "step_start=2,min_interval=3,max_interval=6",
        "step_start=1,min_interval=6,max_interval=12",
    ),
    "block-caching": ("delta=0.4", "delta=0.7", "delta=1"),
    "feb-cache": ("budget=0.3", "budget=0.6", "budget=1.2"),
    "easycache": ("thresh=0.3", "thresh=1", "thresh=4,ret_steps=2"),
    "dicache": (
        "rel_l1_thresh=0.1,ret_ratio=0.1",
        "rel_l1_thresh=0.3,ret_ratio=0.1",
        "rel_l1_thresh=1,ret_ratio=0.05",
    ),
    "speca": (
        "base_threshold=0.5,min_taylor_steps=2,max_taylor_steps=6",
        "",
        "base_threshold=3,min_taylor_steps=6,max_taylor_steps=16",
    ),
    "fbcache": ("threshold=0.2", "threshold=0.4", "threshold=0.8"),
    "dbcache": (
        "Fn_compute_blocks=1,residual_diff_threshold=0.2,max_warmup_steps=2",
        "Fn_compute_blocks=1,residual_diff_threshold=0.9,max_warmup_steps=1",
    ),
    "foresight": ("recalculate=5,threshold=2,warmup=3", "recalculate=8,threshold=4,warmup=3"),
    "adacache": ("codebook=0.08:6,0.16:5,0.24:4,0.32:3,0.40:2,1.0:1", "codebook=0.3:12,1.0:9"),
    "mixcache": ("acc", "eff", "theta=inf,N=10,8,6"),
    "fastcache": ("bound=0.001", "bound=0.003", "bound=0.01"),
    "ras": ("sample_ratio=0.2", "scheduler_end_step=50,sample_ratio=0.15,scheduler_start_step=2"),
}
"""Methods that measure, and others without an interval, with the options of each strength."""

AS_PUBLISHED = (
    "jenga-steps",
    "teacache-1.5",
    "taylorcache-1.5",
    "deepcache-1.5",
    "pab:disca-n5",
    "fasterdiffusion",
    "blockdance",
    "fastercache",
    "t-gate",
    "chipmunk:small",
    "ditfastattn",
    "rainfusion",
)

COMBINED = (
    "teacache:rel_l1_thresh=0.2+taylor",
    "teacache:rel_l1_thresh=0.2+half-taylor",
    "magcache:thresh=1,K=12,retention_ratio=0.1+half-taylor",
    "fbcache:threshold=0.4+taylor",
)

COMBINED_WITH_DISCA = (
    "teacache:rel_l1_thresh=0.2+disca",
    "magcache:thresh=1,K=12,retention_ratio=0.1+disca",
    "speca+disca",
)

GATES = (
    ("l2c", "gates={}/l2c.safetensors"),
    ("harmonica", "gates={}/harmonica.safetensors"),
    ("lazydit", "heads={}/lazydit.safetensors"),
    ("blockdance-ada", "net={}/blockdance-ada.safetensors"),
)
"""Methods whose gates, heads or network were trained for the distilled model, with their files."""

NEEDS_GUIDANCE = "t-gate", "fastercache"
COUNTS_50 = "teacache-1.5", "taylorcache-1.5", "deepcache-1.5"  # steps that are counted, not scaled


def contenders(subject: str, ladder: Path) -> tuple[str, ...]:
    """The policies of "base" or "distilled"; folder `ladder` has what some of them have learned."""
    return (*_base(),) if subject == "base" else (*_distilled(ladder / "caches"),)


def _base() -> Iterator[str]:
    """The contenders of 50 steps with guidance."""
    yield from (f"reuse:interval={n}" for n in (5, 6, 8, 10, 12, 16))
    for name, option in INTERVALS.items():
        if name != "reuse":
            yield from (f"{name}:{option}={n}" for n in (5, 8, 12))
    yield from _strengths()
    yield from AS_PUBLISHED
    yield from COMBINED


def _distilled(learned: Path) -> Iterator[str]:
    """The contenders of 20 steps without guidance, those with something learned among them."""
    yield from (f"{name}:{options}".format(learned) for name, options in GATES)
    yield from (f"{n}:step_list={steps}" for n in (*ON_LISTS, *LEARNED) for steps in _lists(n))
    yield from (f"{name}:{INTERVALS[name]}={n}" for name in NO_LISTS for n in (2, 4, 6))
    yield from _strengths()
    yield from (n for n in AS_PUBLISHED if n not in (*NEEDS_GUIDANCE, *COUNTS_50))
    yield from COMBINED
    yield from COMBINED_WITH_DISCA


def _lists(name: str) -> list[str]:
    """All lists for plain reuse and the learned predictors, every second one for the others."""
    counts = [*STEP_LISTS] if name in ("reuse", *LEARNED) else [8, 5, 3]
    return [STEP_LISTS[count] for count in counts]


def _strengths() -> Iterator[str]:
    for name, of_method in THRESHOLDS.items():
        yield from (f"{name}:{options}" if options else name for options in of_method)


QUICK: dict[str, tuple[str, ...]] = {
    "base": ("reuse:interval=5", "reuse:interval=12", "taylor:interval=8"),
    "distilled": tuple(
        f"{name}:step_list={STEP_LISTS[count]}" for name in ("reuse", "disca") for count in (8, 5)
    ),
}
