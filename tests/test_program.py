"""A plan's acts as instructions."""

import pytest

from disca_rt.cache.plan import Act
from disca_rt.cache.policy import Slot
from disca_rt.cache.program import program
from disca_rt.cache.site import Site

RUN, KEEP, STAND_IN, CHECK, REFRESH = Act
WHOLE, INNER, BRANCH = (
    Slot(site, None)
    for site in (Site("blocks", 0, 6), Site("blocks", 2, 4), Site("branch", 1, 3, ("attn",)))
)


def told(*slots: Slot, acts: tuple[Act, ...], **more: object) -> list[str]:
    """The instructions in words."""
    instructions, start = program(slots, acts, 6, **more)
    words = [
        f"{i.do.name} {i.start}-{i.stop} {'' if i.slot is None else i.slot}" for i in instructions
    ]
    return [f"from {start}", *(each.strip() for each in words)]


@pytest.mark.parametrize(
    ("acts", "expected"),
    [
        ((RUN, RUN), ["RUN 0-6"]),
        ((KEEP, RUN), ["ENTER 0-0 0", "RUN 0-6 0", "KEEP 6-6 0"]),
        ((STAND_IN, STAND_IN), ["STAND_IN 0-6 0"]),
        ((RUN, STAND_IN), ["RUN 0-2", "STAND_IN 2-4 1", "RUN 4-6"]),
        ((KEEP, STAND_IN), ["ENTER 0-0 0", "RUN 0-2", "STAND_IN 2-4 1", "RUN 4-6 0", "KEEP 6-6 0"]),
        ((RUN, REFRESH), ["RUN 0-2", "REFRESH 2-4 1", "RUN 4-6"]),
        ((RUN, CHECK), ["RUN 0-2", "ENTER 2-2 1", "RUN 2-4", "CHECK 4-4 1", "RUN 4-6"]),
    ],
)
def test_acts_become_instructions(acts: tuple[Act, ...], expected: list[str]) -> None:
    assert told(WHOLE, INNER, acts=acts) == ["from 0", *expected]


def test_a_pass_goes_on_where_a_probe_ended_it() -> None:
    assert told(INNER, acts=(KEEP,), done=2)[:3] == ["from 2", "ENTER 2-2 0", "RUN 2-4 0"]
    assert told(WHOLE, acts=(STAND_IN,), done=2) == ["from 0", "STAND_IN 0-6 0"]
    kept = told(WHOLE, acts=(KEEP,), done=1, notes=(3,))
    assert kept == ["from 1", "ENTER 0-0 0", "RUN 1-3", "NOTE 3-3", "RUN 3-6 0", "KEEP 6-6 0"]


def test_what_ended_at_a_probe_under_a_plan_is_not_kept_again() -> None:
    first = Slot(Site("blocks", 0, 2), None)
    for slot in (first, Slot(Site("blocks", 1, 2), None)):
        assert told(slot, acts=(KEEP,), done=2, is_under=True)[-1] == "RUN 2-6"
    assert "KEEP 2-2 0" in told(first, acts=(KEEP,), done=2)


@pytest.mark.parametrize(
    ("slots", "acts", "more", "reason"),
    [
        ((WHOLE, INNER), (STAND_IN, KEEP), {}, "slot 1 cannot be computed in the same step"),
        ((WHOLE,), (STAND_IN,), {"notes": (3,)}, "block 3 cannot be looked at in the same step"),
        ((WHOLE, BRANCH), (STAND_IN, KEEP), {}, "of which 0 to 5 do not run under it"),
        ((WHOLE, BRANCH), (REFRESH, STAND_IN), {}, "of which 0 to 5 do not run under it"),
        ((BRANCH,), (STAND_IN,), {"done": 2}, "of which 0 to 1 do not run under it"),
        ((INNER,), (KEEP,), {"done": 3}, "let slot 0 begin at block 0, or at 3 or later"),
    ],
)
def test_what_cannot_be_done_says_why(
    slots: tuple[Slot, ...], acts: tuple[Act, ...], more: dict, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        program(slots, acts, 6, **more)
