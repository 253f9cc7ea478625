"""Methods that decide over whole steps: all blocks run, or one stand-in is used for all of them."""

from typing import Any

from ..method import LISTED_OR_INTERVAL, Method, everywhere
from ..placements.whole import BeforeLast, Output, Velocity
from ..rules.dicache import DiCache
from ..rules.easycache import EasyCache
from ..rules.ertacache import ErrorBelow, ErrorScaled
from ..rules.magcache import MagCache
from ..rules.middle import Middle
from ..rules.omnicache import EarlyLateBends, EarlyLateInterval, EarlyLateListed
from ..rules.proportional import Proportional
from ..rules.teacache import TeaCache
from ..stand_ins.adams_bashforth import AdamsBashforth
from ..stand_ins.aligned import Aligned
from ..stand_ins.less_noise import LessNoise
from ..stand_ins.polynomial import Taylor
from ..stand_ins.reuse import Reuse
from ..stand_ins.scaled_change import ScaledChange

RESIDUAL: dict[str, Any] = {"form": "delta"}  # what all blocks add to this step's own tokens

# fmt: off
JENGA = (
    0, 1, 2, 3, 4, 7, 10, 13, 16, 19, 22, 25, 26, 29, 32, 35, 38, 41, 43, 45, 46, 47, 49,
)
# fmt: on

MAG_PRESETS = {
    f"{table}-{speed}": {"table": table, "thresh": thresh, "K": most}
    for table in ("720p", "544p")
    for speed, thresh, most in (("slow", 0.12, 4), ("fast", 0.24, 6))
}

METHODS = {
    "ab-cache": Method(
        LISTED_OR_INTERVAL,
        everywhere(AdamsBashforth, Output),
        brief="Adams-Bashforth over the last outputs",
        is_reconstructed=True,
        about="The outputs of the last one, two or three full steps, or with `recursive` of the "
        "last steps of any kind, combined as an Adams-Bashforth step would. Reconstructed; at the "
        "velocity, or at the last hidden state.",
        paper="AB-Cache, arXiv 2504.10540",
    ),
    "ertacache": Method(
        (ErrorBelow, ErrorScaled),
        everywhere(ScaledChange),
        brief="residual again, scaled, outside a list or where it errs least",
        is_reconstructed=True,
        about="All blocks' residual is reused outside a fixed list, one's own or where a "
        "calibration has its error below a threshold, each time scaled by how far it will have "
        "drifted. Reconstructed.",
        paper="ERTACache, arXiv 2508.21091",
    ),
    "omnicache": Method(
        (EarlyLateListed, EarlyLateInterval, EarlyLateBends),
        everywhere(LessNoise, Velocity),
        brief="velocity again, less the error that reuse had before",
        is_reconstructed=True,
        about="The velocity is reused outside a fixed list, less the error that reuse had at the "
        "last full step: its low frequencies early, its high ones late. Reconstructed.",
        paper="OmniCache, arXiv 2508.16212",
    ),
    "teacache": Method(
        (TeaCache,),
        everywhere(Reuse),
        brief="residual again until the modulated input has changed enough",
        about="All blocks' residual is reused until the changes of the first block's modulated "
        "input, through a fitted polynomial, have added up to a threshold.",
        paper="TeaCache, arXiv 2411.19108",
        defaults=RESIDUAL,
        presets={"slow": {"rel_l1_thresh": 0.1}, "fast": {"rel_l1_thresh": 0.15}},
    ),
    "magcache": Method(
        (MagCache,),
        everywhere(Reuse),
        brief="residual again while a table of its sizes keeps errors small",
        about="All blocks' residual is reused while a table of how its size changes from step to "
        "step keeps the added-up error small. Full steps are known before the run.",
        paper="MagCache, arXiv 2506.09045",
        defaults=RESIDUAL,
        presets=MAG_PRESETS,
    ),
    "easycache": Method(
        (EasyCache,),
        everywhere(Reuse, Velocity),
        brief="velocity less latents again until the latents have changed",
        about="The difference between the velocity and the latents is reused, without any pass, "
        "until the latents' changes, at the rate the velocity last followed them, add up.",
        paper="EasyCache, arXiv 2507.02860",
        defaults=RESIDUAL,
    ),
    "dicache": Method(
        (DiCache,),
        everywhere(Aligned),
        brief="the first blocks probe; the others' residual by how they moved",
        about="The first blocks of every step are a probe; while its changes are small, the other "
        "blocks' residual is taken from the last two full steps, as far along as the probe's is.",
        paper="DiCache, arXiv 2508.17356",
    ),
    "jenga-steps": Method(
        (Proportional,),
        everywhere(Reuse),
        brief="residual again outside Jenga's list of 23 steps of 50",
        about="All blocks' residual is reused outside a fixed list: 23 full steps of 50. The list "
        "alone; Jenga's sparse attention and lower resolutions are no part of it.",
        paper="Jenga, arXiv 2505.16864",
        defaults={**RESIDUAL, "step_list": JENGA, "of_steps": 50},
    ),
    "teacache-1.5": Method(
        (Middle,),
        everywhere(Reuse),
        brief="1.5's own: hidden state again, 25 full steps of 50",
        about="HunyuanVideo 1.5's own teacache: the last hidden state again, outside a fixed list "
        "of 25 full steps of 50. Nothing is measured.",
        paper="HunyuanVideo 1.5 with AngelSlim, official code",
    ),
    "taylorcache-1.5": Method(
        (Middle,),
        everywhere(Taylor),
        brief="1.5's own: Taylor of the hidden state, 25 full steps of 50",
        about="HunyuanVideo 1.5's own taylorcache: the last hidden state by a Taylor polynomial of "
        "second order, outside a fixed list of 25 full steps of 50.",
        paper="HunyuanVideo 1.5 with AngelSlim, official code",
        defaults={"order": 2},
    ),
    "deepcache-1.5": Method(
        (Middle,),
        everywhere(Reuse, BeforeLast),
        brief="1.5's own: the last block alone runs, 25 full steps of 50",
        about="HunyuanVideo 1.5's own deepcache: the tokens before the last block again, and that "
        "block on them, outside a fixed list of 25 full steps of 50.",
        paper="HunyuanVideo 1.5 with AngelSlim, official code",
    ),
}
