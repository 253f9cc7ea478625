"""DeepCache's lists of full steps (arXiv 2312.00858): every N-th one, or dense around a centre."""

from dataclasses import dataclass

from ..options import check_int
from ..plan import Setting, StepPlan
from ..rule import Planned, known_plans
from .listed import Listed

POWERS = 0.02  # by which the power falls until there are as many steps as are wanted


@dataclass(frozen=True)
class DeepCache(Planned):
    """Full at every `cache_interval`-th step where `uniform`, otherwise as often, but unevenly.

    Then the spacing grows with the distance from step `center` by the power `pow`, as in the
    authors' code (`sample_from_quad_center`); 1.4 and 15 are theirs for Stable Diffusion in 50
    steps.
    """

    cache_interval: int = 3
    uniform: bool = True
    pow: float = 1.4
    center: int = 15

    def __post_init__(self) -> None:
        check_int("cache_interval", self.cache_interval, 1)
        check_int("center", self.center, 0)

    def plans(self, setting: Setting) -> tuple[StepPlan, ...]:
        """Those of this sample's list."""
        steps, every = len(setting.steps), self.cache_interval
        if self.uniform:
            return known_plans(Listed(tuple(range(0, steps, every))), setting)
        listed = Listed(around(steps, -(-steps // every), self.center, self.pow))
        return known_plans(listed, setting)


def around(steps: int, count: int, center: int, power: float) -> tuple[int, ...]:
    """`count` of `steps` steps, dense around step number `center`.

    Roots of distances are evenly spaced, from that of -`center`, which is a complex number, as in
    the authors' code; real parts are cut to whole numbers. The power falls until the numbers are
    as many as wanted; ValueError where none above 1 does it.
    """
    while power > 1:
        first, last = complex(-center) ** (1 / power), (steps - center) ** (1 / power)
        spaced = (first + (last - first) * i / count for i in range(count + 1))
        distances = sorted({int((complex(each) ** power).real) for each in spaced})
        found = (0, *(center + each for each in distances[1:-1]))
        if len(found) == count:
            return found
        power -= POWERS
    raise ValueError(
        f"center must leave room for {count} full steps of {steps}, got {center}; choose another "
        "one, or a larger cache_interval"
    )
