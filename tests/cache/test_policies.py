"""The table of policies: their texts, their rules, and what they keep."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from cache_draws import CONFIG, OPS, models
from disca_rt.cache.kept import SampleShape, allocate, kept_bytes
from disca_rt.cache.method import Method, Parts, everywhere, sketched
from disca_rt.cache.plan import Setting
from disca_rt.cache.policies import (
    POLICIES,
    build_policy,
    needs_step_list,
    resolve,
    with_step_list,
)
from disca_rt.cache.policy import Policy
from disca_rt.cache.rules.interval import Interval
from disca_rt.cache.rules.listed import Listed
from disca_rt.cache.site import DOUBLE, SINGLE, Site
from disca_rt.cache.stand_ins.polynomial import Hermite, Taylor
from disca_rt.cache.stand_ins.reuse import Reuse
from disca_rt.config import MODELS, DiTConfig
from disca_rt.models.build import build_dit
from disca_rt.sampling.state import numbers
from disca_rt.schedule import get_preset, shifted

PARTS = Parts(CONFIG, OPS, sketched(CONFIG).predictor)


def full_steps(policy: Policy, steps: int) -> list[int]:
    plans = policy.known_plans(Setting(tuple(shifted(steps, 5.0)), 1, len(policy.slots)))
    return [index for index, plan in enumerate(plans) if plan.label == "full"]


def test_options_reach_the_rule_and_the_stand_in() -> None:
    policy = build_policy("hermite:order=2,contraction=0.7,interval=5,warmup_steps=3", PARTS)
    assert policy.rule == Interval(5, 3)
    assert policy.slots[0].stand_in == Hermite(OPS, 2, 0.7)
    listed = build_policy("taylor:step_list=0,2,5,order=0", PARTS, step_list=(0, 1))
    assert listed.rule == Listed((0, 2, 5)), "not the preset's"
    assert listed.slots[0].stand_in == Taylor(OPS, 0)
    assert build_policy("taylor", PARTS, step_list=(0, 1)).rule == Listed((0, 1))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("teacash", r"^policy must be one of \d+ methods .*, got 'teacash'; near it: teacache"),
        ("nonsense", "got 'nonsense'$"),
        ("taylor:oder=2", "taylor has no option 'oder'; its options: interval, order, "),
        ("full:order=2", "policy full has no option 'order'; its options: none"),
        ("taylor:order=two", "policy taylor: order must be a whole number, got 'two'"),
        ("taylor:step_list=0,x", "step_list must be numbers such as 0,1,2,5, got '0,x'"),
        ("taylor:5", "options must be option=value,..., got '5'"),
        (
            "taylor:order=4,interval=2",
            "^policy taylor: order must be a whole number from 0 to 3, got 4",
        ),
        ("hermite:contraction=2,interval=2", "contraction must be above 0 and at most 1, got 2"),
        ("reuse:form=delta,interval=0", "interval must be a whole number at least 1, got 0"),
        ("reuse:form=sum,interval=2", "form must be output or delta, got 'sum'"),
        ("disca", r"disca needs step_list, or interval \(warmup_steps\), got neither; give one"),
        ("taylor:interval=2,interval=3", "interval is given twice"),
        ("taylor:interval=2,step_list=0,1", "got interval and step_list"),
        ("reuse:step_list=1,2", "step_list must begin with 0"),
        ("reuse:step_list=0,2,2", "step_list must increase without repeats"),
        ("adacache:codebook=nan:1", "codebook must be rising changes with rates such as"),
        ("feb-cache:a=inf", "a must be a number above 0 and at most 10, got inf"),
        ("fastercache:alpha_low_frequency=0", "alpha_low_frequency must be a number above 0"),
        ("teacache:rel_l1_thresh=-1", r"^policy teacache: rel_l1_thresh must .*, got -1.0$"),
        ("reuse:interval=2+taylor:order=4", r"^policy reuse\+taylor: order must be"),
    ],
)
def test_a_wrong_text_says_what_is_right(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build_policy(text, PARTS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "fora:disca-n3",
            "^policy fora:disca-n3 is for 50 steps, this sample has 20: give --steps 50, or "
            "options of your own such as fora:fresh_threshold=3$",
        ),
        ("fora:disca-n3,last_step_full=true", "policy fora needs"),
        ("fora:disca-n3,step_list=0,20", "^policy fora: step_list must stay below steps: with 20"),
        ("fora:disca-n3+taylor", "^policy fora:disca-n3 is for 50 steps, this sample has 20"),
        (
            "chipmunk:with-step-reuse,top_keys=0.1",
            "^policy chipmunk:with-step-reuse is for 50 steps",
        ),
        ("fasterdiffusion:late-keys", "^policy fasterdiffusion:late-keys is for 50 steps"),
        ("disca:step_list=0,20", "^policy disca: step_list must stay below steps: with 20"),
    ],
)
def test_a_preset_says_for_how_many_steps_its_list_is(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        resolve(shifted(20, 5.0), text, sketched(DiTConfig()))


def test_disca_without_a_predictor_and_a_list_beyond_the_steps() -> None:
    with pytest.raises(ValueError, match="needs a predictor"):
        build_policy("disca:interval=2", Parts(CONFIG, OPS))
    with pytest.raises(ValueError, match="with 4 steps the last index is 3, got 4"):
        resolve(shifted(4, 5.0), "reuse:step_list=0,4", PARTS)
    with pytest.raises(ValueError, match="is for the level blocks or guidance or velocity, and"):
        Policy("mine", Interval(2), ((Site("branch", 0, 2, ("attn",)), Reuse("delta")),))


@pytest.mark.parametrize(
    ("interval", "warmup", "count"), [(5, 1, 10), (3, 3, 18), (6, 3, 10), (3, 1, 17), (6, 1, 9)]
)
def test_intervals_have_the_papers_counts(interval: int, warmup: int, count: int) -> None:
    policy = build_policy(f"reuse:interval={interval},warmup_steps={warmup}", PARTS)
    found = full_steps(policy, 50)
    assert len(found) == count
    assert found[:warmup] == list(range(warmup))
    assert {b - a for a, b in zip(found[warmup - 1 :], found[warmup:], strict=False)} == {interval}


def test_a_row_has_defaults_of_its_own_that_options_and_combinations_change() -> None:
    row = Method((Listed,), everywhere(Reuse), defaults={"form": "delta", "step_list": (0, 3)})
    with patch.dict(POLICIES, {"mine": row}):
        assert build_policy("mine", PARTS).rule == Listed((0, 3))
        assert build_policy("mine:step_list=0,2", PARTS).rule == Listed((0, 2))
        assert build_policy("mine", PARTS).slots[0].stand_in == Reuse("delta")
        assert build_policy("mine:form=output", PARTS).slots[0].stand_in == Reuse()
        assert build_policy("mine+reuse", PARTS).slots[0].stand_in == Reuse()
        mixed = build_policy("reuse:interval=2+mine", PARTS)
        assert (mixed.rule, mixed.slots[0].stand_in) == (Interval(2), Reuse("delta"))


def test_a_preset_is_the_default_of_policies_that_follow_a_list() -> None:
    published = get_preset("disca-n4")
    schedule, policy = resolve(published, "disca", PARTS)
    assert full_steps(policy, schedule.steps) == [0, 1, 2, 5, 9, 13, 17, 19]
    assert len(full_steps(resolve(published, "full", PARTS)[1], 20)) == 20


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("taylor", "taylor:step_list=0,2"),
        ("taylor:order=2", "taylor:order=2,step_list=0,2"),
        ("taylor+disca-fed", "taylor:step_list=0,2+disca-fed"),
        ("reuse+taylor:order=1", "reuse:step_list=0,2+taylor:order=1"),
        ("disca+hermite:contraction=0.5,order=1", None),
    ],
)
def test_a_step_list_goes_to_the_rule_of_a_combination(text: str, listed: str | None) -> None:
    ours = with_step_list(text, (0, 2))
    assert listed in (None, ours)
    policy, alone = build_policy(ours, PARTS), build_policy(text, PARTS, step_list=(0, 1))
    assert (policy.rule, policy.slots) == (Listed((0, 2)), alone.slots)
    assert needs_step_list(text)
    assert not needs_step_list(ours)
    assert not needs_step_list("teacache+taylor"), "its rule measures"


@pytest.mark.parametrize(("name", "tensors"), [("full", 0), ("disca", 1), ("taylor:order=2", 3)])
def test_what_policies_keep(name: str, tensors: int) -> None:
    policy = build_policy(name, PARTS, step_list=(0,))
    placed = CONFIG, torch.bfloat16, torch.device("cpu")
    shape = SampleShape(*placed, (2, 2, 2, 4, 4), 8, ((5, 3), (5, 2)))
    both = 2 * (8 + 7) * CONFIG.hidden * 2
    assert kept_bytes(policy, shape) == (tensors * both, 0)
    buffers = [b for of_pass in allocate(policy, shape) for slot in of_pass for b in slot.values()]
    assert sum(tensor.nbytes for each in buffers for tensor in each) == tensors * both


def test_every_branch_of_the_blocks_has_a_form() -> None:
    dit = build_dit(MODELS["hunyuan-video"])
    for blocks, forms in ((dit.double_blocks, DOUBLE), (dit.single_blocks, SINGLE)):
        documented = type(blocks[0]).__doc__
        assert all(f"`{name}`" in documented for name in forms)


NEEDED = {
    "block-caching": "block-caching:curves=0.1",
    "ertacache": "ertacache:step_list=0",
    "blockdance-ada": "blockdance-ada:rho=1,reuse=1",
}
"""Texts of policies that have an option without a default."""

NEED_MORE = "l2c", "harmonica", "lazydit", "edit"
"""Policies that need a file, or a sample that edits a video."""


NUMBERS = [
    (name, option)
    for name, row in POLICIES.items()
    for option, kind in (row.rule_types | row.slot_types).items()
    if "float" in str(kind)
]


@pytest.mark.parametrize(("name", "option"), NUMBERS)
def test_no_option_is_not_a_number(name: str, option: str) -> None:
    """A threshold of NaN would be neither above nor below anything."""
    with pytest.raises(ValueError, match=f"policy {name}: {option} must be .*, got 'nan'"):
        build_policy(f"{name}:{option}=nan", PARTS)


def test_a_combination_that_means_nothing_is_one_line() -> None:
    only_double = PARTS._replace(config=replace(CONFIG, double=1, single=0))
    with pytest.raises(ValueError, match="profilingdit has no stand-in in this model"):
        build_policy("feb-cache+profilingdit", only_double)
    with pytest.raises(ValueError, match="at least 3 blocks, got one of 1"):
        build_policy("deepcache", only_double)
    with pytest.raises(ValueError, match=r"\(Learned\) is for the level blocks, and") as told:
        build_policy("feb-cache+disca", PARTS._replace(predictor=models().predictor))
    assert "\n" not in str(told.value)


WORDS = [
    (name, part)
    for name, row in POLICIES.items()
    for part in (*row.rules, *(where.stand_in for where in row.places))
    if (part.gives if part in row.rules else part.takes)
]
"""The rules that give scalars, and the stand-ins that take them, with their methods' names."""


def test_methods_with_scalars_are_known() -> None:
    assert {name for name, _ in WORDS} == {
        "dicache",
        "ertacache",
        "fastercache",
        "fasterdiffusion",
        "omnicache",
        "ras",
    }


@pytest.mark.parametrize(("name", "part"), WORDS, ids=lambda each: getattr(each, "__name__", each))
def test_a_word_that_is_forgotten_is_refused(name: str, part: type) -> None:
    """The only stand-in of a row; one of several that takes scalars has a word."""
    row, without = POLICIES[name], type(part.__name__, (part,), {"gives": "", "takes": ""})
    rules = tuple(without if each is part else each for each in row.rules)
    places = tuple(
        where._replace(stand_in=without if where.stand_in is part else where.stand_in)
        for where in row.places
    )
    if part not in row.rules and any(where.stand_in.takes for where in places):
        assert name in ("fastercache", "ras"), "its stand-ins are in the test below"
        return
    with pytest.raises(ValueError, match=r"the words must be the same, or the scalars never arr"):
        replace(row, rules=rules, places=places)


def test_what_takes_scalars_has_a_word_for_them() -> None:
    """All rows: what changes with the scalars of a plan says which they are."""
    takers = set()
    for name in POLICIES.keys() - NEED_MORE:
        for _, stand_in in build_policy(NEEDED.get(name, name), PARTS, step_list=(0,)).slots:
            histories = ((), (0,), (0, 1), (0, 1, 2))
            changes = any(
                stand_in.numbers(kept_at, 4, (0.1, 0.2, 0.3)) != stand_in.numbers(kept_at, 4, ())
                for kept_at in histories
            )
            if changes:
                takers.add(name)
                assert stand_in.takes, f"{type(stand_in).__name__} of {name}"
    assert takers == {name for name, _ in WORDS}


def test_scalars_without_a_word_are_refused() -> None:
    class Nameless(Interval):
        def decide(self, *args):
            return super().decide(*args)._replace(given=(1.0,))

    policy = Policy("mine", Nameless(2), build_policy("ertacache:step_list=0", PARTS).slots)
    with pytest.raises(ValueError, match="mine, step 0: the plan has scalars, and Nameless no wo"):
        full_steps(policy, 4)


@pytest.mark.parametrize("second", ["reuse", "ertacache", "omnicache", "dicache"])
def test_scalars_reach_the_stand_ins_that_take_their_kind(second: str) -> None:
    """And no others: OmniCache's weights of bands are no scale of ERTACache's residual."""
    texts = "omnicache:step_list=0,1,3", "ertacache:step_list=0,1,3,error_scale=0.5"
    for text, word in zip(texts, ("bands", "scale"), strict=True):
        policy = build_policy(f"{text}+{second}", PARTS, step_list=(0,))
        plans = policy.known_plans(Setting(tuple(shifted(6, 5.0)), 1, 1))
        stand_in, (own,) = policy.slots[0].stand_in, {slot.stand_in.takes for slot in policy.slots}
        for step in (4, 5):
            given = plans[step].given
            ours = numbers(policy, (((0, 1, 3),),), step, plans[step])
            assert given
            assert ours == [*stand_in.numbers((0, 1, 3), step, given if own == word else ())]
            without = [*stand_in.numbers((0, 1, 3), step, ())]
            assert (ours != without) == (own == word and given != (1.0, 0.0))


def test_every_row_builds() -> None:
    for name in POLICIES.keys() - NEED_MORE:
        text = NEEDED.get(name, name)
        policy = build_policy(text, PARTS, step_list=(0,))
        assert policy.name == name
        assert policy == build_policy(text, PARTS, step_list=(0,))
        assert hash(policy) == hash(build_policy(text, PARTS, step_list=(0,)))
