"""Methods that replace ranges of blocks: DBCache and the others of `cache/methods/ranges.py`."""

import itertools
from collections.abc import Sequence

import pytest
import torch

from disca_rt.cache.plan import Act, Ask, Measured, Setting, StepPlan
from disca_rt.cache.policies import build_policy
from disca_rt.cache.row import Parts
from disca_rt.cache.rules.dbcache import DBCache
from disca_rt.cache.stand_in import Moment, TensorSpec
from disca_rt.cache.stand_ins.damped_foca import DampedFoCa
from disca_rt.cache.stand_ins.late_taylor import LateTaylor
from disca_rt.config import DiTConfig
from disca_rt.kernels.ops import get_ops
from disca_rt.schedule import shifted

OPS = get_ops("reference")
VIDEO_10 = DiTConfig()
EMBEDDED = DiTConfig(double=1, single=16)


def setting(policy, steps: int, passes: int = 1) -> Setting:
    return Setting(tuple(shifted(steps, 3.0)), passes, len(policy.slots))


def decided(rule: DBCache, facts: Setting, changes: Sequence[Sequence[float]]) -> list[list[int]]:
    """The computed steps of each slot of each pass, where `changes[step][pass·slots + slot]`."""
    memory = rule.start(facts)
    computed: list[list[int]] = [[] for _ in range(facts.passes * facts.slots)]
    for step, row in zip(facts.steps, changes, strict=True):
        seen: dict = {}
        while isinstance(answer := rule.decide(facts, step, seen, memory), Ask):
            index = answer.probe.which_pass * facts.slots + answer.probe.slot
            assert answer.probe not in seen
            seen[answer.probe] = Measured(row[index], 1.0)
        assert isinstance(answer, StepPlan)
        memory = rule.remember(facts, step, answer, seen, memory)
        for index, act in enumerate(itertools.chain(*answer.passes)):
            computed[index] += [step.index] if act == Act.KEEP else []
    return computed


CHANGES = torch.rand(20, 4, generator=torch.Generator().manual_seed(3)).mul(0.2).tolist()
OPTIONS = [
    {},
    {"residual_diff_threshold": 0.3},
    {"residual_diff_threshold": 1.0},
    {"residual_diff_threshold": 0.0},
    {"max_warmup_steps": 9, "warmup_interval": 3},
    {"max_cached_steps": 5},
    {"max_continuous_cached_steps": 2, "residual_diff_threshold": 0.15},
    {"max_accumulated_residual_diff_threshold": 0.7},
    {"steps_computation_mask": (1, 1, 0, 0, 0, 1, 0, 0)},
    {"steps_computation_mask": (1, 1, 0, 0, 0, 1, 0, 0), "steps_computation_policy": "static"},
    {"steps_computation_mask": (1, 0), "max_continuous_cached_steps": 3},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("separate", [True, False])
def test_dbcache_decides_as_cache_dit_on_the_same_changes(options: dict, separate: bool) -> None:
    contexts = pytest.importorskip("cache_dit.caching.cache_contexts.cache_manager")
    configs = pytest.importorskip("cache_dit.caching.cache_contexts.cache_config")
    given = {"residual_diff_threshold": 0.1, "max_warmup_steps": 2} | options
    rule = DBCache(VIDEO_10, **given, cfg_diff_compute_separate=separate)
    ours = decided(rule, Setting(tuple(shifted(20, 3.0)), 2, 2), CHANGES)
    for slot in range(2):
        manager = contexts.CachedContextManager("tested")
        config = configs.DBCacheConfig(
            **{k: list(v) if isinstance(v, tuple) else v for k, v in given.items()},
            enable_separate_cfg=True,
            cfg_diff_compute_separate=separate,
        )
        manager.new_context(name="blocks", cache_config=config)
        theirs: list[list[int]] = [[], []]
        for step, number in itertools.product(range(20), range(2)):
            manager.set_context("blocks")
            manager.mark_step_begin()
            residual = torch.tensor([1.0 + CHANGES[step][2 * number + slot]])
            if manager.can_cache(residual, prefix="Fn_residual"):
                manager.add_cached_step()
            else:  # the kept residual is 1, so that each change is the next one's diff
                manager.set_Fn_buffer(torch.ones(1), prefix="Fn_residual")
                theirs[number].append(step)
        assert [ours[slot], ours[2 + slot]] == theirs


def test_dbcache_keeps_apart_what_double_and_single_blocks_decide() -> None:
    policy = build_policy("dbcache:Fn_compute_blocks=8,Bn_compute_blocks=2", Parts(VIDEO_10, OPS))
    assert [(each.site.start, each.site.stop) for each in policy.slots] == [(8, 18), (28, 58)]
    probes = policy.probes(1)
    assert [(probe.since, probe.block) for probe in probes] == [(0, 8), (20, 28)]
    assert len(policy.probes(2)) == 4
    single = build_policy("dbcache", Parts(EMBEDDED, OPS))
    assert [(each.site.start, each.site.stop) for each in single.slots] == [(9, 17)]
    one = build_policy("dbcache", Parts(DiTConfig(double=54, single=0), OPS))
    assert [(each.site.start, each.site.stop) for each in one.slots] == [(8, 54)]


def test_a_static_mask_is_known_before_the_run() -> None:
    mask = "steps_computation_mask=1,1,0,0,1,steps_computation_policy=static"
    policy = build_policy(f"dbcache:{mask}", Parts(VIDEO_10, OPS))
    plans = policy.known_plans(setting(policy, 7))
    assert [plan.label == "full" for plan in plans] == [
        True,
        True,
        False,
        False,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dbcache:Fn_compute_blocks=0", "Fn_compute_blocks must be a whole number at least 1"),
        ("dbcache:Fn_compute_blocks=39,Bn_compute_blocks=1", "must be below 40"),
        ("dbcache:steps_computation_mask=0,1", "begin with 1"),
        ("dbcache:steps_computation_mask=1,2", "ones and zeros"),
        ("dbcache:steps_computation_policy=fixed", "dynamic or static"),
        ("dbcache:residual_diff_threshold=nan", "must be a number"),
        ("dbcache:calibrator=dmd", "calibrator must be"),
        ("dbcache:calibrator=foca,taylorseer_order=1", "drop one"),
        ("fbcache:threshold=-1", "threshold must be a number of at least 0"),
    ],
)
def test_options_that_mean_nothing_are_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build_policy(text, Parts(VIDEO_10, OPS))
    assert "\n" not in str(caught.value)


VALUES = torch.randn(24, 5, generator=torch.Generator().manual_seed(1))


def forecasts(stand_in, kept_at: Sequence[int]) -> list[torch.Tensor]:
    """The values of steps 0 to 23 by a stand-in that kept `VALUES` at the steps `kept_at`."""
    spec = TensorSpec((5,), torch.float32, torch.device("cpu"))
    buffers = tuple(each.zeros() for each in stand_in.kept_specs(spec))
    done: tuple[int, ...] = ()
    values = []
    for step, value in enumerate(VALUES):
        at = Moment(None, None, torch.tensor(stand_in.numbers(done, step, ())))
        if step in kept_at:
            stand_in.keep(buffers, value, at)
            done = (*done, step)
        values.append(value if step in kept_at else stand_in.value(buffers, at))
    return values


@pytest.mark.parametrize("kept_at", [(0, 4), (0, 1, 2, 5, 6, 12, 13), (0, 9, 10, 11)])
@pytest.mark.parametrize("order", [None, 0, 1, 2, 3])
def test_calibrators_are_cache_dits(order: int | None, kept_at: tuple[int, ...]) -> None:
    module = "cache_dit.caching.cache_contexts.calibrators."
    if order is None:
        theirs, ours = pytest.importorskip(module + "foca").FoCaState(), DampedFoCa(OPS)
    else:
        state = pytest.importorskip(module + "taylorseer").TaylorSeerState
        theirs, ours = state(n_derivatives=order), LateTaylor(OPS, order, first=3)
    for step, value in enumerate(forecasts(ours, kept_at)):
        if step:  # their state is made by the first update, after the step has begun
            theirs.mark_step_begin()
        if step in kept_at:
            theirs.update(VALUES[step].clone())
        else:
            assert torch.allclose(value, theirs.approximate(), rtol=1e-4, atol=1e-4), step
