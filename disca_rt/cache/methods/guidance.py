"""Methods that act at guidance, and those that select among several levels of a step."""

from ..placement import ConditionalAttentions, Unconditional
from ..row import Row, Where
from ..rules.faster_cache import FasterCache, FasterCacheOf50
from ..stand_ins.frequency_bands import FrequencyBands
from ..stand_ins.last_two import LastTwo

ROWS = {
    "fastercache": Row(
        (FasterCache, FasterCacheOf50),
        (Where(ConditionalAttentions, LastTwo), Where(Unconditional, FrequencyBands)),
        about="Attention outputs go on by a share of their last change; the unconditional pass is "
        "the conditional one plus their last difference, scaled in two bands of frequencies. Where "
        "there is one pass (distilled guidance) only the part on attention is left.",
        paper="FasterCache, arXiv 2410.19355",
        presets={
            "cogvideox": {
                "skips_from": 18,
                "attention_weight": 0.3,
                "last_two": "computed",
            },
        },
        is_placed=True,
    ),
}
