"""State in FP8 or on the host: the same sample, nearly or exactly, in less of the device."""

from collections.abc import Callable
from inspect import isfunction

import pytest
import torch
from torch import Tensor

from cache_draws import CONFIG, OPS, Draw, models
from disca_rt.cache.kept import SampleShape, kept_bytes
from disca_rt.cache.method import Parts, sketched
from disca_rt.cache.policies import build_policy
from disca_rt.cache.rules.interval import Interval
from disca_rt.cache.site import DOUBLE, Site
from disca_rt.cache.stand_in import (
    WHOLE,
    Kept,
    Moment,
    Place,
    RowStandIn,
    StandIn,
    StandInDefaults,
    TensorSpec,
)
from disca_rt.cache.stand_ins.kept_elsewhere import KeptElsewhere, smaller
from disca_rt.cache.stand_ins.polynomial import Taylor
from disca_rt.cache.stand_ins.reuse import Reuse
from disca_rt.config import MODELS
from disca_rt.graphs.runner import GraphRunner
from disca_rt.schedule import shifted
from disca_rt.work.memory import Need, footprint, smaller_caches
from golden_vectors import relative_error
from recorded import record

BRANCHES = Site("branch", 0, 4, (*DOUBLE, "total"))


def draw(stand_in: object, site: Site = BRANCHES) -> Draw:
    return Draw(Interval(2), site, stand_in, shifted(6, 3.0), True, 2, 0)


@pytest.mark.parametrize("stand_in", [Reuse(), Taylor(OPS, 1)])
@pytest.mark.parametrize("site", [BRANCHES, Site("blocks", 0, 4), Site("velocity")])
def test_state_on_the_host_changes_no_bit_and_fp8_little(stand_in: object, site: Site) -> None:
    eager, captured = models(), models(graphs=GraphRunner(torch.device("cpu"), record))
    expected, _ = eager.sample(draw(stand_in, site))
    for fp8, on_host in ((False, True), (True, False), (True, True)):
        elsewhere = draw(KeptElsewhere(stand_in, fp8, on_host), site)
        latents, _ = eager.sample(elsewhere)
        assert torch.equal(latents, captured.sample(elsewhere)[0])
        if fp8:
            assert 0 < relative_error(latents, expected) < 0.05
        else:
            assert torch.equal(latents, expected)


def test_fp8_keeps_rows_of_any_size_to_a_part_in_sixteen() -> None:
    stand_in = KeptElsewhere(Reuse(), True, False)
    value = torch.randn(2, 5, 16) * torch.logspace(-20, 20, 5)[:, None]
    value[0, 3] = 0
    like = torch.empty(0)
    specs = stand_in.kept_specs(TensorSpec(tuple(value.shape), value.dtype, value.device))
    kept = tuple(spec.zeros() for spec in specs)
    stand_in.keep(kept, value, Moment(like, None, None))
    found = stand_in.value(kept, Moment(like, None, None))
    rows = value.abs().amax(-1, keepdim=True)
    assert ((found - value).abs() <= value.abs() / 16 + rows * 2**-9).all()
    assert (found[0, 3] == 0).all()


def test_bytes_by_place() -> None:
    shape = SampleShape(CONFIG, torch.bfloat16, torch.device("meta"), (1, 2, 2, 4, 4), 8, ((8, 3),))
    whole = 11 * CONFIG.hidden * 2
    parts = Parts(CONFIG, OPS, sketched(CONFIG).predictor)
    found = {
        state: kept_bytes(build_policy(f"reuse:interval=2,state={state}", parts), shape)
        for state in ("device", "fp8", "host", "fp8-host")
    }
    coded = 11 * CONFIG.hidden + 11 * 2
    assert found == {
        "device": (whole, 0),
        "fp8": (coded, 0),
        "host": (0, whole),
        "fp8-host": (0, coded),
    }
    with pytest.raises(ValueError, match=r"policy reuse: state must be one of .*, got 'disk'"):
        build_policy("reuse:interval=2,state=disk", parts)


def test_ways_out_are_those_that_fit() -> None:
    dit = MODELS["hunyuan-video"]
    policy = build_policy("taylor:order=1,interval=5", sketched(dit))
    need = Need(dit, None, (33, 88, 88), 256, 2, policy=policy)
    assert [option for option, _ in smaller(policy)] == [
        "order=0",
        "state=fp8",
        "state=host",
        "state=fp8-host",
    ]
    assert smaller_caches(need, footprint(need).cache * 11) == [], "a small part of what is there"
    branches = policy.slots[0]._replace(site=Site("branch", 0, 60, (*DOUBLE, "total")))
    every = need._replace(policy=type(policy)("taylor", policy.rule, (branches,)))
    there = footprint(every).total - footprint(every).cache // 2 + 10**9
    assert smaller_caches(every, there) == [
        f"option {option} of policy taylor"
        for option in ("order=0", "state=fp8", "state=host", "state=fp8-host")
    ]


class Noting(StandInDefaults):
    """Says something of its own of each member, and notes which methods are called."""

    def __init__(self) -> None:
        self.called: set[str] = set()
        for name in FACTS:
            setattr(self, name, object())

    def __getattribute__(self, name: str) -> object:
        if name in METHODS:
            self.called.add(name)
        return super().__getattribute__(name)

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return (like,)

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        kept[0].copy_(value)

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return kept[0]

    def row_count(self, place: Place, rows: int) -> int:
        return 7 * rows

    def refresh(self, kept: Kept, compute: Callable[..., Tensor], at: Moment) -> Tensor:
        return compute()


FACTS = {*StandIn.__annotations__, *RowStandIn.__annotations__}
METHODS = {
    name
    for protocol in (StandIn, RowStandIn)
    for name, member in vars(protocol).items()
    if isfunction(member) and not name.startswith("_")
}
IT_SAYS_ITSELF = {"out"}  # nothing is computed in a buffer that is elsewhere


def test_it_hands_on_every_member_of_the_protocol() -> None:
    assert vars(KeptElsewhere).keys() >= FACTS | METHODS
    inner, value = Noting(), torch.ones(1, 2, 4)
    stand_in = KeptElsewhere(inner, fp8=False, on_host=True)
    for name in FACTS:
        assert getattr(stand_in, name) is getattr(inner, name), name
    spec = TensorSpec((1, 2, 4), torch.float32, value.device)
    (kept,), at = (each.zeros() for each in stand_in.kept_specs(spec)), Moment(value, None, None)
    stand_in.keep((kept,), value, at)
    assert torch.equal(stand_in.value((kept,), at), value)
    assert torch.equal(stand_in.terms((kept,), at).tensors, value[None])
    assert stand_in.refresh((kept,), lambda: value, at) is value
    assert stand_in.row_count(WHOLE, 3) == 21
    assert stand_in.numbers((), 0, ()) == inner.numbers((), 0, ())
    assert stand_in.pair_shares((1, 1, 1), 0) == inner.pair_shares((1, 1, 1), 0)
    assert stand_in.at_site(BRANCHES).stand_in is inner
    assert inner.called == METHODS - IT_SAYS_ITSELF
