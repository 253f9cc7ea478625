"""Methods that replace ranges of blocks, while the others run on fresh tokens."""

from ..method import Method, Where, everywhere
from ..placements.ranges import (
    AfterFirst,
    BackAndFront,
    EachBlock,
    FrontHalf,
    Inner,
    Middles,
    Prefix,
    Prefixes,
    Profiled,
)
from ..placements.whole import NoisyVelocity
from ..rules.block_caching import RefreshTable, TrainedTable
from ..rules.blockdance import LateGroups
from ..rules.blockdance_ada import ByNetwork, Chosen
from ..rules.dbcache import DBCache
from ..rules.deepcache import DeepCache
from ..rules.delta_dit import DeltaDiT
from ..rules.faster_diffusion import KeySteps
from ..rules.fbcache import FirstBlock
from ..rules.foresight import Foresight
from ..rules.profiling_dit import ProfilingDiT
from ..stand_ins.calibrated import Calibrated
from ..stand_ins.prior_noise import PriorNoise
from ..stand_ins.reuse import Change, Reuse
from ..stand_ins.scaled_shifted import ScaledShifted

METHODS = {
    "dbcache": Method(
        (DBCache,),
        everywhere(Calibrated, Middles),
        brief="first blocks probe; those behind again, or forecast",
        about="The first blocks of each kind always run; where their residual has changed little, "
        "the last change of the blocks behind them is used again, or forecast.",
        paper="cache-dit 1.5.3, github.com/vipshop/cache-dit",
        is_placed=True,
    ),
    "fbcache": Method(
        (FirstBlock,),
        everywhere(Change, AfterFirst),
        brief="the first block probes; the change of all behind it again",
        about="The first block always runs; where its residual has changed little, the last change "
        "of all blocks behind it is used again.",
        paper="first_block_cache of diffusers 0.42.1, after ParaAttention",
    ),
    "foresight": Method(
        (Foresight,),
        everywhere(Reuse, Prefixes),
        brief="blocks up to the last one that changes little stand still",
        about="A warm-up tells how much each block's output changes. Later the output of the last "
        "block that has changed less stands in for all blocks up to it. Keeps all blocks' outputs.",
        paper="Foresight, github.com/STAR-Laboratory/foresight",
        is_placed=True,
    ),
    "delta-dit": Method(
        (DeltaDiT,),
        everywhere(Change, BackAndFront),
        brief="the change of single, back or front blocks again",
        is_reconstructed=True,
        about="Every N-th step is full; in the others the last change of the single blocks is "
        "added instead (DisCa's setting), or that of back blocks early and of front blocks late.",
        paper="Delta-DiT, arXiv 2406.01125; no code of its authors",
        presets={"N5": {"interval": 5}, "N8": {"interval": 8}},
        is_placed=True,
    ),
    "deepcache": Method(
        (DeepCache,),
        everywhere(Reuse, Inner),
        brief="inner blocks' output again, outer ones run; of U-Nets, mapped",
        about="Outer blocks always run; the output of the inner ones is used again between full "
        "steps. A mapping of U-Net branches to a DiT, which has no skips.",
        paper="DeepCache, arXiv 2312.00858, github.com/horseee/DeepCache",
    ),
    "fasterdiffusion": Method(
        (KeySteps,),
        (Where(FrontHalf, Reuse), Where(NoisyVelocity, PriorNoise)),
        brief="the front half runs at key steps only; of U-Nets, mapped",
        about="The front half of the blocks runs at key steps only, which lie early; the back half "
        "always. Late steps add a little of the sample's first noise. A mapping of a U-Net's "
        "encoder; batched steps are left out.",
        paper="Faster Diffusion, arXiv 2312.09608, github.com/hutaiHang/Faster-Diffusion",
        presets={"late-keys": {"key_steps": (0, 1, 2, 3, 5, 10, 15, 25, 35, 42, 48)}},
        preset_steps={"late-keys": 50},
        is_placed=True,
    ),
    "blockdance": Method(
        (LateGroups,),
        everywhere(Reuse, Prefix),
        brief="late steps: one block's output for all blocks up to it",
        is_reconstructed=True,
        about="Early steps are full; later only every N-th one is, and in the others the output of "
        "one block stands in for all blocks up to it.",
        paper="BlockDance, arXiv 2503.15927, as MixCache ran it; no code of its authors",
    ),
    "blockdance-ada": Method(
        (Chosen, ByNetwork),
        everywhere(Reuse, Prefix),
        brief="as blockdance, the steps chosen by a network for each sample",
        is_reconstructed=True,
        about="As blockdance, but a small network chooses each sample's later steps once the early "
        "ones have run: trained by disca-rt train cache, or a list that is given.",
        paper="BlockDance-Ada, arXiv 2503.15927; no code and no weights of its authors",
    ),
    "profilingdit": Method(
        (ProfilingDiT,),
        everywhere(Change, Profiled),
        brief="the change of blocks that attend to the background again",
        about="Ranges of blocks that attend to the background are replaced by their last change; "
        "double and single blocks are computed in steps of their own.",
        paper="ProfilingDiT, arXiv 2504.03140, github.com/GeekGuru123/ProfilingDiT",
        is_placed=True,
    ),
    "block-caching": Method(
        (RefreshTable, TrainedTable),
        everywhere(ScaledShifted, EachBlock),
        brief="each block's change again until it has changed enough",
        is_reconstructed=True,
        about="Each block is replaced by its last change until its changes, as a calibration has "
        "measured them, add up to too much; with scale_shift, a file of disca-rt train cache, by a "
        "trained scale and shift of it.",
        paper="Block Caching, arXiv 2312.03209; no code of its authors",
        is_placed=True,
    ),
}
