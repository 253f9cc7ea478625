"""Methods that compute a subset of the rows in a step, and keep the others."""

from ..method import Method, Where
from ..placements.ranges import EachBlock
from ..placements.rows import AllButDoubleMLPs, DoubleMLPs, IfTokensMove, LastDouble
from ..placements.whole import Velocity, Whole
from ..rules.between import RowOfEachCluster, SomeRows, SomeRowsOrNone
from ..rules.edit import EditSteps
from ..rules.fastcache import LinearBlocks
from ..rules.ras import Regions
from ..stand_ins.cluster_rows import ClusterRows, Forecast
from ..stand_ins.clusters import Clusters
from ..stand_ins.drawn_rows import DrawnRows, Expanded
from ..stand_ins.edited_rows import EditedRows
from ..stand_ins.important_rows import ImportantRows
from ..stand_ins.linear_map import LinearMap
from ..stand_ins.moving_rows import MovingRows
from ..stand_ins.regions import FreshRows, FreshVelocity
from ..stand_ins.reuse import OnlyOutput, Reuse

_KEPT = Where(AllButDoubleMLPs, Expanded)

METHODS = {
    "toca": Method(
        (SomeRows,),
        (_KEPT, Where(DoubleMLPs, DrawnRows)),
        brief="branches again; MLPs compute some rows, drawn at random",
        about="Branches are kept between full steps, but some rows of the double blocks' MLPs are "
        "computed anew at each step: drawn at random, as in the authors' code for HunyuanVideo.",
        paper="ToCa, arXiv 2410.05317",
        presets={"hunyuan": {"fresh_threshold": 5, "fresh_ratio": 0.10}},
        is_placed=True,
    ),
    "duca": Method(
        (SomeRowsOrNone,),
        (_KEPT, Where(DoubleMLPs, DrawnRows), Where(Whole, Reuse)),
        brief="as toca, by turns with steps that compute no block",
        about="ToCa's steps, by turns with steps that compute no block and end with the tokens "
        "that the step before ended with.",
        paper="DuCa, arXiv 2412.18911",
        presets={"hunyuan": {"fresh_threshold": 5, "fresh_ratio": 0.10}},
        is_placed=True,
    ),
    "clusca": Method(
        (RowOfEachCluster,),
        (
            Where(AllButDoubleMLPs, Forecast),
            Where(DoubleMLPs, ClusterRows),
            Where(LastDouble, Clusters),
        ),
        brief="branches forecast; MLPs compute a row of each cluster",
        about="Branches are forecast, but a row of each cluster of alike tokens, drawn at random, "
        "is computed anew in the double blocks' MLPs, and the others move a little towards it.",
        paper="ClusCa, arXiv 2509.10312",
        presets={
            "hunyuan": {"fresh_threshold": 5, "cluster_num": 32, "propagation_ratio": 0.01},
            "config": {"fresh_threshold": 5, "cluster_num": 10, "propagation_ratio": 0.0},
        },
        is_placed=True,
    ),
    "ras": Method(
        (Regions,),
        (Where(Whole, FreshRows), Where(Velocity, FreshVelocity)),
        brief="all blocks on some image rows, those whose velocity stands out",
        about="Each step computes some image rows only, in all blocks, with kept keys and values "
        "of the others, whose velocity is kept; rows are chosen by its deviation over channels.",
        paper="RAS, arXiv 2502.10389",
        presets={"30-steps": {"sample_ratio": 0.5, "error_reset_steps": (12, 22)}},
        preset_steps={"30-steps": 30},
        is_placed=True,
    ),
    "edit": Method(
        (EditSteps,),
        (Where(Whole, EditedRows),),
        brief="only the rows of an edited part run; with generate --edit",
        about="A part of a given video is made anew, and steps compute its rows only, in all "
        "blocks, with kept keys and values of the others: goes with generate --edit --mask.",
        paper="FISEdit, arXiv 2305.17423; EEdit, arXiv 2503.10270",
        is_placed=True,
    ),
    "tokencache": Method(
        (SomeRows,),
        (Where(AllButDoubleMLPs, OnlyOutput), Where(DoubleMLPs, ImportantRows)),
        brief="as toca, rows by expected change",
        is_reconstructed=True,
        about="As toca, but the rows of which most change is expected are computed anew. "
        "Reconstructed: neither code nor weights are public.",
        paper="TokenCache, arXiv 2409.18523",
        is_placed=True,
    ),
    "fastcache": Method(
        (LinearBlocks,),
        (Where(IfTokensMove, MovingRows), Where(EachBlock, LinearMap)),
        brief="blocks whose input hardly changed become linear maps",
        about="A block whose input has hardly changed since the last step is replaced by a linear "
        "map: trained, of a calibration, or fitted on the way. With motion_threshold image rows "
        "that stand still take one in place of all blocks, and the others alone are computed. The "
        "paper's bound, 1 and the default, replaces nearly every block, and of the embedded "
        "model's video even 0.01 leaves little (18 dB): begin below it.",
        paper="FastCache, arXiv 2505.20353, github.com/NoakLiu/FastCache-xDiT",
        presets={
            "chi-square": {"bound": 1.0},
            "tight": {"bound": 0.01},
            "static-tokens": {"bound": 0.01, "motion_threshold": 0.1},
        },
        is_placed=True,
    ),
}
