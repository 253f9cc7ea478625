"""Cache policies through the engine's eyes: what runs when, what is kept, what is forgotten."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from disca_rt.cache.disca import DisCaPolicy
from disca_rt.cache.hermite import HermitePolicy
from disca_rt.cache.policies import POLICIES, build_policy
from disca_rt.cache.taylor import TaylorPolicy
from disca_rt.kernels.ops import Ops, get_ops
from disca_rt.models.stream import Part, Stream, settle
from disca_rt.schedule import Schedule

SHAPE = torch.Size([1, 3, 4])
OPS = get_ops("reference")
CPU = torch.device("cpu")


class CountingPredictor:
    """Adds the cached tokens to the current ones and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, current: Tensor, cached: Tensor, context: object) -> Tensor:
        self.calls += 1
        return current + cached


class Block:
    """A block whose residual stream is `function` of the tokens."""

    def __init__(self, function: Callable[[Tensor], Tensor], ops: Ops | None = None) -> None:
        self.function, self.ops = function, ops or OPS

    def __call__(self, stream: Stream, context: object) -> Stream:
        tokens = settle(stream, self.ops)
        return (Part(tokens, self.function(tokens) - tokens, torch.ones(1, SHAPE[2])),)


def run(policy, schedule: Schedule, state) -> list[Tensor]:
    """Tokens after each step, where step i starts from i and the only block doubles."""
    blocks = [Block(lambda tokens: 2 * tokens)]
    out = []
    for step in schedule:
        tokens = torch.full(SHAPE, float(step.index))
        kind = policy.decide(step, tokens, state)
        out.append(policy.run(kind, tokens, None, blocks, state).clone())
    return out


def test_disca_predicts_from_the_last_full_step() -> None:
    predictor = CountingPredictor()
    policy = DisCaPolicy(predictor)
    state = policy.allocate(SHAPE, torch.float32, CPU)
    out = run(policy, Schedule(6, 1.0, (0, 3)), state)
    assert [tokens[0, 0, 0].item() for tokens in out] == [0, 1, 2, 6, 4 + 6, 5 + 6]
    assert predictor.calls == 4


def test_disca_writes_into_one_buffer_that_never_moves() -> None:
    policy = DisCaPolicy(CountingPredictor())
    state = policy.allocate(SHAPE, torch.float32, CPU)
    address = state.cached.data_ptr()
    for _ in range(2):
        policy.reset(state)
        run(policy, Schedule(6, 1.0, (0, 3)), state)
        assert state.cached.data_ptr() == address
    assert torch.equal(state.cached, torch.full(SHAPE, 6.0))


def test_ops_that_write_into_the_buffer_are_not_copied_again() -> None:
    policy = DisCaPolicy(CountingPredictor())
    state = policy.allocate(SHAPE, torch.float32, CPU)

    def gate_residual(x: Tensor, branch: Tensor, gate: Tensor, out: Tensor) -> Tensor:
        return torch.addcmul(x, branch, gate[:, None], out=out)

    ops = Ops(**vars(OPS) | {"gate_residual": gate_residual})
    block = Block(lambda tokens: 3 * tokens, ops)
    out = policy.run("full", torch.ones(SHAPE), None, [block], state)
    assert out is state.cached
    assert torch.equal(out, torch.full(SHAPE, 3.0))


def test_disca_keeps_one_tensor() -> None:
    policy = DisCaPolicy(CountingPredictor())
    assert policy.cache_bytes(SHAPE, torch.bfloat16) == 3 * 4 * 2
    state = policy.allocate(SHAPE, torch.bfloat16, CPU)
    assert state.cached.nbytes == policy.cache_bytes(SHAPE, torch.bfloat16)


def values(policy, schedule: Schedule) -> list[float]:
    """The result of each step, twice over: a second sample must not see the first."""
    state = policy.allocate(SHAPE, torch.float32, CPU)
    first = [tokens[0, 0, 0].item() for tokens in run(policy, schedule, state)]
    policy.reset(state)
    assert [tokens[0, 0, 0].item() for tokens in run(policy, schedule, state)] == first
    return first


def test_reuse_repeats_the_last_full_step() -> None:
    assert values(build_policy("reuse", None, OPS), Schedule(6, 1.0, (0, 3))) == [0, 0, 0, 6, 6, 6]


def test_taylor_extrapolates_over_the_step_index() -> None:
    schedule = Schedule(8, 1.0, (0, 1, 4))
    # The block doubles the step index: linear, so order 1 is exact once two full steps are known.
    assert values(TaylorPolicy(OPS, max_order=1), schedule) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert values(TaylorPolicy(OPS, max_order=0), schedule) == [0, 2, 2, 2, 8, 8, 8, 8]
    assert values(TaylorPolicy(OPS, max_order=1), Schedule(3, 1.0, (0,))) == [0, 0, 0]


def test_hermite_goes_half_as_far() -> None:
    schedule = Schedule(8, 1.0, (0, 1, 4))
    assert values(HermitePolicy(OPS), schedule) == [0, 2, 3, 4, 8, 9, 10, 11]
    with pytest.raises(ValueError, match="contraction must be above 0 and at most 1, got 2"):
        HermitePolicy(OPS, contraction=2)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        # At 4: F = 16, d1 = (16 - 4) / 2 = 6, d2 = (6 - (4 - 0) / 2) / 2 = 2.
        (TaylorPolicy(OPS, 2), [16 + 6 + 2 / 2, 16 + 12 + 2 * 4 / 2, 16 + 18 + 2 * 9 / 2]),
        # H_1(k/2)/2 = k/2, H_2(k/2)/4 = (k² - 2)/4.
        (HermitePolicy(OPS, 2), [16 + 3 - 1 / 4, 16 + 6 + 2 / 4, 16 + 9 + 7 / 4]),
    ],
    ids=["taylor", "hermite"],
)
def test_forecasts_of_second_order_follow_the_papers(
    policy: TaylorPolicy, expected: list[float]
) -> None:
    state = policy.allocate(SHAPE, torch.float32, CPU)
    blocks = [Block(lambda tokens: tokens**2)]
    out = []
    for step in Schedule(8, 1.0, (0, 2, 4)):
        tokens = torch.full(SHAPE, float(step.index))
        kind = policy.decide(step, tokens, state)
        out.append(policy.run(kind, tokens, None, blocks, state)[0, 0, 0].item())
    assert out[5:] == expected


def test_policies_keep_what_they_say() -> None:
    for name in POLICIES:
        policy = build_policy(name, CountingPredictor(), OPS)
        state = policy.allocate(SHAPE, torch.bfloat16, CPU)
        kept = [v for v in vars(state).values() if isinstance(v, Tensor)] if state else []
        assert sum(tensor.nbytes for tensor in kept) == policy.cache_bytes(SHAPE, torch.bfloat16)


def test_full_runs_every_block_at_every_step() -> None:
    policy = build_policy("full", None, OPS)
    out = run(policy, Schedule(3, 1.0, (0,)), policy.allocate(SHAPE, torch.float32, CPU))
    assert [tokens[0, 0, 0].item() for tokens in out] == [0, 2, 4]
    assert policy.cache_bytes(SHAPE, torch.float32) == 0


def test_every_row_of_the_table_says_what_it_is() -> None:
    for name in POLICIES:
        policy = build_policy(name, CountingPredictor(), OPS)
        assert policy.name == name
        assert policy.schedule_known


def test_unknown_policy_and_missing_predictor() -> None:
    with pytest.raises(
        ValueError, match=r"policy must be one of \['disca', 'full', 'hermite', 'reuse', 'taylor'\]"
    ):
        build_policy("teacache", None, OPS)
    with pytest.raises(ValueError, match="needs a predictor"):
        build_policy("disca", None, OPS)
