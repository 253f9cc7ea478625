"""Methods that reuse branches: tables and rules say which are computed at a step."""

from ..method import Method, everywhere
from ..placements.branches import BranchPairs, Broadcasts, EveryBranch, GatedAround, Kinds
from ..rules.adacache import AdaCache
from ..rules.feb_cache import States
from ..rules.fora import Fresh
from ..rules.gated import Gated
from ..rules.lazydit import Lazy
from ..rules.listed import Listed
from ..rules.pab import Broadcast
from ..stand_ins.reuse import OnlyOutput

ALWAYS = (-1.0, 1001.0)  # a window that all noise levels are in
FAST = "0.08:6", "0.16:5", "0.24:4", "0.32:3", "0.40:2", "1.0:1"
LONG = "0.03:12", "0.05:10", "0.07:8", "0.09:6", "0.11:4", "1.0:3"

METHODS = {
    "fora": Method(
        (Fresh, Listed),
        everywhere(OnlyOutput, EveryBranch),
        brief="attention and MLPs of every block again",
        about="Reuses attention and MLP of every block, computed every fresh_threshold steps. "
        "The presets of DisCa's Table 4 are for 50 steps; of the 20 full ones there only the count "
        "is known, and the list is ours.",
        paper="FORA, arXiv 2407.01425",
        presets={
            "disca-n3": {"step_list": (0, 1, 2, 3, *range(4, 50, 3))},
            "disca-n6": {"fresh_threshold": 6},
        },
        preset_steps={"disca-n3": 50},
    ),
    "pab": Method(
        (Broadcast,),
        everywhere(OnlyOutput, Broadcasts),
        brief="attention outputs again within a window of noise levels",
        about="Reuses attention outputs within a window of noise levels; all else is computed. As "
        "presets DisCa's setting, without a window, MixCache's, and Open-Sora's window and MLPs.",
        paper="PAB, arXiv 2408.12588",
        presets={
            "disca-n5": {
                "spatial_attention_block_skip_range": 5,
                "spatial_attention_timestep_skip_range": ALWAYS,
            },
            "disca-n8": {
                "spatial_attention_block_skip_range": 8,
                "spatial_attention_timestep_skip_range": ALWAYS,
                "last_step_full": True,
            },
            "mixcache": {"spatial_attention_block_skip_range": 8},
            "open-sora": {
                "spatial_attention_timestep_skip_range": (450.0, 930.0),
                "mlp_timesteps": (864.0, 788.0, 676.0),
            },
        },
        is_placed=True,
    ),
    "feb-cache": Method(
        (States,),
        everywhere(OnlyOutput, Kinds),
        brief="attention, MLPs or both again, by a state of each step",
        about="Reuses attention, MLPs or both of all blocks by a state of each step; the states "
        "are found by a search for each model, and none are published for video.",
        paper="FEB-Cache, arXiv 2503.07120",
        is_placed=True,
    ),
    "l2c": Method(
        (Gated,),
        everywhere(OnlyOutput, BranchPairs),
        brief="branches by learned gates, trained on pairs of steps",
        about="Reuses branches by learned gates of each step, trained on pairs of steps.",
        paper="Learning-to-Cache, arXiv 2406.01733",
        is_placed=True,
    ),
    "harmonica": Method(
        (Gated,),
        everywhere(OnlyOutput, BranchPairs),
        brief="branches by learned gates, trained along whole samples",
        about="Reuses branches by learned gates of each step, trained along whole samples.",
        paper="HarmoniCa, arXiv 2410.01723",
        is_placed=True,
    ),
    "lazydit": Method(
        (Lazy,),
        everywhere(OnlyOutput, BranchPairs),
        brief="branches where a learned head says so of their input",
        about="Reuses a branch where a learned linear head says so of its input, step by step.",
        paper="LazyDiT, arXiv 2412.12444",
        is_placed=True,
    ),
    "adacache": Method(
        (AdaCache,),
        everywhere(OnlyOutput, GatedAround),
        brief="branches' sums again, for as long as change and motion say",
        about="Reuses what all branches add to the tokens, for as many steps as the change of one "
        "of them and its motion say. Presets: the authors' codebooks.",
        paper="AdaCache, arXiv 2411.02397",
        presets={
            "slow": {"codebook": ("0.08:3", "0.16:2", "1.0:1")},
            "fast": {"codebook": FAST},
            "slow-moreg": {"codebook": ("0.08:3", "0.16:2", "1.0:1"), "apply_moreg": True},
            "fast-moreg": {"codebook": FAST, "apply_moreg": True},
            "100-steps": {"codebook": LONG},
            "100-steps-moreg": {"codebook": LONG, "apply_moreg": True},
        },
        is_placed=True,
    ),
}
