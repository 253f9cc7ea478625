"""Methods that replace ranges of blocks, while the others run on fresh tokens."""

from ..placements.ranges import AfterFirst, Middles
from ..row import Row, Where
from ..rules.dbcache import DBCache
from ..rules.first_block import FirstBlock
from ..stand_ins.calibrated import Calibrated
from ..stand_ins.reuse import Change

ROWS = {
    "dbcache": Row(
        (DBCache,),
        (Where(Middles, Calibrated),),
        about="The first blocks of each kind always run; where their residual has changed little, "
        "the last change of the blocks behind them is used again, or forecast.",
        paper="cache-dit 1.5.3, github.com/vipshop/cache-dit",
        is_placed=True,
    ),
    "fbcache": Row(
        (FirstBlock,),
        (Where(AfterFirst, Change),),
        about="The first block always runs; where its residual has changed little, the last change "
        "of all blocks behind it is used again.",
        paper="first_block_cache of diffusers 0.42.1, after ParaAttention",
    ),
}
