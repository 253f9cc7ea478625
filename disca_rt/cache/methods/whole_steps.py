"""Methods of a fixed step list: all blocks of a step, or a stand-in for all of them."""

from ..method import LISTED_OR_INTERVAL, Method, everywhere
from ..rules.always import Always
from ..stand_ins.learned import Learned
from ..stand_ins.polynomial import Hermite, Taylor
from ..stand_ins.reuse import Reuse

METHODS = {
    "full": Method((Always,), brief="every step is computed", about="Every step is computed."),
    "disca": Method(
        LISTED_OR_INTERVAL,
        everywhere(Learned),
        brief="a learned predictor goes on from the last full step",
        about="A small learned predictor continues from the hidden state of the last full step.",
        paper="DisCa, arXiv 2602.05449",
    ),
    "reuse": Method(
        LISTED_OR_INTERVAL,
        everywhere(Reuse),
        brief="the last full step's hidden state again",
        about="The hidden state of the last full step again.",
    ),
    "taylor": Method(
        LISTED_OR_INTERVAL,
        everywhere(Taylor),
        brief="a Taylor polynomial of the hidden state",
        about="The hidden state is extrapolated by a Taylor polynomial over the step index.",
        paper="TaylorSeer, arXiv 2503.06923, of the last hidden state",
    ),
    "hermite": Method(
        LISTED_OR_INTERVAL,
        everywhere(Hermite),
        brief="as taylor, in Hermite polynomials, which grow less",
        about="As taylor, in scaled Hermite polynomials, which grow less.",
        paper="HiCache, arXiv 2508.16984, of the last hidden state",
    ),
}
