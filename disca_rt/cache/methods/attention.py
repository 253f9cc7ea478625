"""Methods of sparse attention: some pairs of query and key, and a cache for the others."""

from ..attention_slots import ReusedOutputs, SharedBetweenPasses, Windows
from ..method import Method, Where
from ..placements.attention import EveryAttention, JointAttention, WholeWhereSkipped
from ..rules.after_warm_up import AfterWarmUp
from ..rules.chipmunk import SparseSteps
from ..rules.ditfastattn import ByPlan, Windowed
from ..stand_ins.head_masks import HeadMasks
from ..stand_ins.reuse import OnlyOutput, Reuse
from ..stand_ins.sparse_delta import SparseDelta
from ..stand_ins.tiles import SelectedTiles, SlidingTiles
from ..stand_ins.window import FromConditional, WindowResidual

SKIPPED = 7, 11, *range(13, 16), *range(17, 20), *range(21, 24), *range(25, 28), 29, 31
SKIPPED += (*range(33, 36), *range(37, 40), *range(41, 44))

METHODS = {
    "chipmunk": Method(
        (SparseSteps,),
        (Where(JointAttention, SparseDelta), Where(WholeWhereSkipped, Reuse)),
        brief="the heaviest attention columns, and the rest of a full step",
        about="Attention to all keys at a few steps; at the others to the heaviest 5 % of each "
        "group of queries and 1 % at random, plus what the rest added at the last full step. "
        "With with-step-reuse half of the steps take the tokens of the step before instead. FLOPs "
        "count the pairs of its masks; on a CPU all pairs of small groups are computed and masked.",
        paper="Chipmunk, sandyresearch/chipmunk",
        presets={
            "with-step-reuse": {"skip_step_schedule": SKIPPED},
            "small": {"voxel_shape": (1, 4, 4), "counts_multiple_of": 1},
        },
        preset_steps={"with-step-reuse": 50},
        is_placed=True,
    ),
    "ditfastattn": Method(
        (ByPlan, Windowed),
        (
            Where(ReusedOutputs, OnlyOutput),
            Where(Windows, WindowResidual),
            Where(SharedBetweenPasses, FromConditional),
        ),
        brief="each block's attention by a plan: last, window or other pass's",
        about="Each block's attention in each step by a calibrated plan: in full, its last output, "
        "a window of image keys plus what the rest added, or the conditional pass's. The plan is a "
        "file, or that of disca-rt calibrate --attention-plan. Without one, or with an interval: "
        "windows, and full attention at every interval-th step.",
        paper="DiTFastAttn, arXiv 2406.08552",
        is_placed=True,
    ),
    "rainfusion": Method(
        (AfterWarmUp,),
        (Where(EveryAttention, HeadMasks),),
        brief="each head attends to near frames, near places or every second",
        is_reconstructed=True,
        about="Each head attends to frames near it, to places near it, or to every second key, "
        "whichever its own queries tell in every step. It keeps nothing; with another method's "
        "rule, as in teacache+rainfusion, that one says which steps attend in full.",
        paper="RainFusion, arXiv 2505.21036",
    ),
    "sta": Method(
        (AfterWarmUp,),
        (Where(EveryAttention, SlidingTiles),),
        brief="3-D tiles attend to those around them",
        about="Image tokens in 3-D tiles, of which each attends to the tiles around it and to text "
        "in every step; text attends to everything. For models that were trained so.",
        paper="Sliding Tile Attention, arXiv 2502.04507; as in Tencent-Hunyuan/HunyuanVideo-1.5",
        defaults={"warmup_steps": 0},
    ),
    "ssta": Method(
        (AfterWarmUp,),
        (Where(EveryAttention, SelectedTiles),),
        brief="3-D tiles attend to those around them and to the most important",
        about="As sta, and each tile also attends to the most important others of its head. What "
        "HunyuanVideo 1.5's sparse checkpoints are for. FLOPs count selected tiles as "
        "if none was in the window.",
        paper="HunyuanVideo 1.5, arXiv 2511.18870; Tencent-Hunyuan/HunyuanVideo-1.5",
        defaults={"warmup_steps": 0},
    ),
}
