"""The policies that the judge compares: each method at strengths of 3 to 10 full steps' cost.

By subject: the base's 50 steps with guidance, where costs are in steps of two passes, and the
distilled model's 20.
"""

STEP_LISTS_20 = {
    10: "0,1,2,5,9,11,13,15,17,19",
    8: "0,1,2,5,9,13,17,19",
    6: "0,1,2,8,13,19",
    5: "0,1,6,11,16",
    4: "0,1,7,13",
    3: "0,1,10",
}

_ON_LISTS = ("reuse", "taylor", "hermite", "disca")

CONTENDERS: dict[str, tuple[str, ...]] = {
    "base": (
        *(f"reuse:interval={n}" for n in (5, 6, 8, 10, 12, 16)),
        *(f"{name}:interval={n}" for name in ("taylor", "hermite") for n in (5, 6, 8, 12)),
    ),
    "distilled": tuple(
        f"{name}:step_list={steps}" for name in _ON_LISTS for steps in STEP_LISTS_20.values()
    ),
}

QUICK: dict[str, tuple[str, ...]] = {
    "base": ("reuse:interval=5", "reuse:interval=12", "taylor:interval=8"),
    "distilled": tuple(
        f"{name}:step_list={STEP_LISTS_20[count]}"
        for name in ("reuse", "disca")
        for count in (8, 5)
    ),
}
