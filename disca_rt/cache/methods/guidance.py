"""Methods that act at guidance, and those that select among several levels of a step."""

from ..method import Method, Where
from ..placements.guidance import ConditionalAttentions, Prefixes, SelfAttentions, TextBranches
from ..placements.whole import Unconditional, Velocity
from ..rules.faster_cache import FasterCache, FasterCacheOf50
from ..rules.mixcache import MixCache
from ..rules.t_gate import TGate
from ..stand_ins.conditional import Conditional
from ..stand_ins.frequency_bands import FrequencyBands
from ..stand_ins.last_two import LastTwo
from ..stand_ins.mean_of_passes import MeanOfPasses
from ..stand_ins.reuse import OnlyChange, OnlyOutput, Reuse

METHODS = {
    "fastercache": Method(
        (FasterCache, FasterCacheOf50),
        (Where(ConditionalAttentions, LastTwo), Where(Unconditional, FrequencyBands)),
        brief="attention goes on by its last change; the second pass by bands",
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
    "mixcache": Method(
        (MixCache,),
        (Where(Velocity, Reuse), Where(Unconditional, OnlyChange), Where(Prefixes, Reuse)),
        brief="velocity, guidance or first blocks again, what changes least",
        is_reconstructed=True,
        about="After a warm-up one step in N is full, N by what full steps change; others cache "
        "the guided velocity, the unconditional pass, or that and the first blocks, whichever "
        "would change the result least, and never twice in a row the same.",
        paper="MixCache, arXiv 2508.12691",
        presets={"acc": {"N": (4, 3, 2)}, "eff": {"N": (5, 4, 3)}},
        is_placed=True,
    ),
    "t-gate": Method(
        (TGate,),
        (
            Where(TextBranches, MeanOfPasses),
            Where(SelfAttentions, OnlyOutput),
            Where(Unconditional, Conditional),
        ),
        brief="text branches fixed, no second pass late; of cross-attention",
        about="A mapping, for a method of cross-attention: from a gate on the text rows of double "
        "blocks are reused, as the mean of both passes, and the unconditional pass is dropped; "
        "before it self-attention is computed now and then.",
        paper="T-GATE, arXiv 2404.02747",
        presets={"v1": {"sp_interval": 1, "fi_interval": 1}, "v2": {"sp_interval": 5}},
        is_placed=True,
    ),
}
