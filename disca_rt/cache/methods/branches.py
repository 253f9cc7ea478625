"""Methods that reuse branches: tables and rules say which are computed at a step."""

from ..branch_placements import Broadcasts
from ..placement import EveryBranch
from ..row import Row, everywhere
from ..rules.broadcast import Broadcast
from ..rules.fresh import Fresh
from ..rules.listed import Listed
from ..stand_ins.reuse import Reuse

ALWAYS = (-1.0, 1001.0)  # a window that all noise levels are in

ROWS = {
    "fora": Row(
        (Fresh, Listed),
        everywhere(Reuse, EveryBranch),
        about="Attention and MLP of every block again, computed every fresh_threshold steps. "
        "The presets of DisCa's Table 4 are for 50 steps; of the 20 full ones there only the count "
        "is known, and the list is ours.",
        paper="FORA, arXiv 2407.01425",
        presets={
            "disca-n3": {"step_list": (0, 1, 2, 3, *range(4, 50, 3))},
            "disca-n6": {"fresh_threshold": 6},
        },
    ),
    "pab": Row(
        (Broadcast,),
        everywhere(Reuse, Broadcasts),
        about="Attention outputs again within a window of noise levels, all else computed. As "
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
}
