"""Methods that forecast what a step would compute from full steps, and that verify such drafts."""

from ..method import LISTED_OR_INTERVAL, Method, everywhere
from ..placements.branches import Attentions, BranchesOrHidden, EveryBranch, LastBlockApart
from ..placements.whole import Velocity
from ..rules.cache_interval import CacheInterval
from ..rules.first_enhance import FirstEnhance
from ..rules.freqca import Enhanced
from ..rules.listed import Listed
from ..rules.speca import SpeCa
from ..stand_ins.diffusers_taylor import DiffusersTaylor
from ..stand_ins.fed import Fed
from ..stand_ins.foca import FoCa
from ..stand_ins.freqca import FreqCa
from ..stand_ins.half_taylor import HalfTaylor
from ..stand_ins.hyca import HyCa
from ..stand_ins.taylorseer import HiCache, TaylorSeer

FIRST_OR_LISTED = FirstEnhance, Listed

METHODS = {
    "taylorseer": Method(
        FIRST_OR_LISTED,
        everywhere(TaylorSeer, EveryBranch),
        brief="Taylor polynomials of every branch of every block",
        about=(
            "Every branch of every block is forecast, before its gate, by a Taylor polynomial over "
            "the step index; norms, modulations and gates are computed anew. The presets have the "
            "20 and 11 full steps of 50 of DisCa's Table 4; which ones they are is our choice."
        ),
        paper="TaylorSeer, arXiv 2503.06923; Shenyi-Z/TaylorSeer, TaylorSeer-HunyuanVideo",
        presets={
            "disca-n3": {"fresh_threshold": 3, "first_enhance": 4, "force_last": True},
            "disca-n6": {"fresh_threshold": 6, "first_enhance": 3, "force_last": True},
        },
    ),
    "taylorseer-hidden": Method(
        FIRST_OR_LISTED,
        everywhere(TaylorSeer),
        brief="TaylorSeer's polynomial of the last hidden state",
        about="The hidden state after the last block is forecast by TaylorSeer's polynomial.",
        paper="Cache4Diffusion's taylorseer_hunyuan_video; arXiv 2503.06923",
        defaults={"fresh_threshold": 6, "first_enhance": 3},
    ),
    "taylorseer-attention": Method(
        (CacheInterval,),
        everywhere(DiffusersTaylor, Attentions),
        brief="Taylor polynomials of attention outputs; MLPs always run",
        about=(
            "The attention outputs of every block are forecast by a Taylor polynomial; MLPs are "
            "computed in every step."
        ),
        paper="TaylorSeer as in diffusers (hooks/taylorseer_cache.py); arXiv 2503.06923",
    ),
    "taylorseer-lite": Method(
        (CacheInterval,),
        everywhere(DiffusersTaylor, Velocity),
        brief="a Taylor polynomial of the model's output: nothing runs",
        about=(
            "What the model gives after its head is forecast by a Taylor polynomial: neither "
            "embedding nor blocks nor head run."
        ),
        paper="TaylorSeer's lite mode in diffusers (hooks/taylorseer_cache.py)",
    ),
    "hicache": Method(
        FIRST_OR_LISTED,
        everywhere(HiCache, BranchesOrHidden),
        brief="as taylorseer, in scaled Hermite polynomials",
        about=(
            "As taylorseer, in scaled Hermite polynomials, which grow less with the distance; of "
            "all branches, or of the last hidden state."
        ),
        paper="HiCache, arXiv 2508.16984; mirrored in yiming-l21/CFGCache",
        defaults={"fresh_threshold": 6, "first_enhance": 3},
        presets={
            "launcher": {"hicache_scale_factor": 0.7},
            "analytic": {"analytic_sigma": True},
        },
    ),
    "foca": Method(
        FIRST_OR_LISTED,
        everywhere(FoCa, BranchesOrHidden),
        brief="BDF2 corrected by Heun, of branches or the hidden state",
        about=(
            "Each step is predicted by BDF2 and corrected by Heun from the two before it, forecast "
            "ones too; of all branches, or of the last hidden state."
        ),
        paper="FoCa, arXiv 2508.16211; its variant in vipshop/cache-dit",
        defaults={"fresh_threshold": 6, "first_enhance": 3},
    ),
    "freqca": Method(
        (Enhanced, Listed),
        everywhere(FreqCa),
        brief="hidden state in two bands: low ones again, high ones forecast",
        about=(
            "The last hidden state is split in two bands over the tokens' grid: the low one is "
            "reused, the high one forecast by Hermite polynomials."
        ),
        paper="FreqCa, arXiv 2510.08669; Tammytcl/FreqCa",
    ),
    "hyca": Method(
        FIRST_OR_LISTED,
        everywhere(HyCa),
        brief="a solver for each channel of the hidden state",
        is_reconstructed=True,
        about=(
            "Each channel of the last hidden state is forecast by a solver of its own: reuse, "
            "Taylor, Adams-Bashforth, or BDF2 with Heun, in one weighted sum."
        ),
        paper="HyCa, arXiv 2510.04188; rebuilt from its description",
        defaults={"fresh_threshold": 6, "first_enhance": 3},
    ),
    "half-taylor": Method(
        LISTED_OR_INTERVAL,
        everywhere(HalfTaylor),
        brief="half of the hidden state's last change, bounded; our own",
        about=(
            "Half of the hidden state's last change is added, and never more than half of it: "
            "between reuse and a Taylor polynomial."
        ),
        paper="none: a bounded forecast of our own",
    ),
    "disca-fed": Method(
        LISTED_OR_INTERVAL,
        everywhere(Fed),
        brief="DisCa's predictor, fed with a forecast; our own",
        about="DisCa's learned predictor, given a forecast of the hidden state as its kept one.",
        paper="ours; DisCa, arXiv 2602.05449",
    ),
    "speca": Method(
        (SpeCa,),
        everywhere(TaylorSeer, LastBlockApart),
        brief="Taylor drafts, verified by the last block",
        about=(
            "Taylor forecasts of every branch are drafts; the last block is computed on a draft's "
            "input, and its error says whether the next step is full, or this one is done again."
        ),
        paper="SpeCa, arXiv 2509.11628; Shenyi-Z/Cache4Diffusion, speca-hunyuan_video",
    ),
}
