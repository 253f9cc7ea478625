"""Captured steps and trajectories give what eager ones give, bit by bit; captures come and go."""

import itertools
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from disca_rt.attention.backends import BACKENDS
from disca_rt.cache.policies import build_policy
from disca_rt.cache.policy import Policy
from disca_rt.cli import main
from disca_rt.commands import generate
from disca_rt.commands.graphs import wants_graphs
from disca_rt.graphs import runner as graphs_module
from disca_rt.graphs.runner import CaptureError, CudaCapture, GraphRunner
from disca_rt.measure.random_models import random_runtime
from disca_rt.models.dit import DiT
from disca_rt.pipeline.runtime import Runtime
from disca_rt.schedule import get_preset, preset
from disca_rt.tiny.config import TINY
from disca_rt.tiny.runtime import DIT, PREDICTOR, with_tiny_prompts
from recorded import record
from refusal import refusal

CPU = torch.device("cpu")
PROMPTS = [
    "a red circle moving left",
    "a blue square moving up on a gray background",
    "a green cross moving up",
]
SIZE = {"frames": 3, "height": 16, "width": 24}
SCHEDULE = preset(7, shift=5.0, step_list=(0, 1, 4))
SHORT = preset(3, shift=5.0, step_list=(0, 1))


def runtime(graphs: GraphRunner | None = None, **arguments: Any) -> Runtime:
    """Runtime by PyTorch's operators, which are those that can be recorded."""
    arguments = {"ops": "reference", "attention": "sdpa"} | arguments
    return with_tiny_prompts(Runtime.load(DIT, PREDICTOR, graphs=graphs, **arguments))


def latents(
    sampled: Runtime, prompt: str, policy: str | Policy, seed: int, **arguments: Any
) -> Tensor:
    return sampled.generate(
        prompt, **SIZE, schedule=SCHEDULE, policy=policy, seed=seed, **arguments
    ).latents


@pytest.fixture(scope="module")
def eager() -> Runtime:
    return runtime()


def test_a_plan_has_one_capture_whatever_its_numbers() -> None:
    graphs = GraphRunner(CPU, record)
    sampled = runtime(graphs)
    given = {"frames": 1, "height": 8, "width": 8, "schedule": get_preset("disca-n4")}
    for _ in range(2):
        sampled.generate(PROMPTS[0], **given, policy="taylor", on_step=lambda event: None)
    assert graphs.captures == 2, "of a full step and of a predicted one"


@pytest.mark.parametrize("policy", ["disca", "full", "taylor", "hermite", "reuse"])
def test_replay_equals_eager(policy: str, eager: Runtime) -> None:
    watched, alone = GraphRunner(CPU, record), GraphRunner(CPU, record)
    by_step, whole = runtime(watched), runtime(alone)
    for seed, prompt in enumerate([*PROMPTS, PROMPTS[0]]):  # of different text lengths
        expected = latents(eager, prompt, policy, seed)
        looked_at = latents(by_step, prompt, policy, seed, on_step=lambda event: None)
        assert torch.equal(looked_at, expected)
        assert torch.equal(latents(whole, prompt, policy, seed), expected)
    assert watched.captures > 0
    assert alone.captures > 0


@pytest.fixture
def only_replays(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Refuse, once called, everything but replays."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("a replayed trajectory embeds nothing")

    return lambda: monkeypatch.setattr(DiT, "embed", refuse)


def test_no_python_runs_at_a_replay(eager: Runtime, only_replays: Callable[[], None]) -> None:
    captured = runtime(GraphRunner(CPU, record))
    for seed in range(2):
        latents(captured, PROMPTS[0], "disca", seed)
    expected = latents(eager, PROMPTS[0], "disca", 2)
    only_replays()
    assert torch.equal(latents(captured, PROMPTS[0], "disca", 2), expected)


@pytest.mark.parametrize("policy", ["disca", "full"])
def test_text_lengths_in_turn_keep_their_captures(
    policy: str, eager: Runtime, only_replays: Callable[[], None]
) -> None:
    graphs = GraphRunner(CPU, record)
    captured = runtime(graphs)
    short, long = PROMPTS[:2]
    expected = {prompt: short_sample(eager, prompt, policy) for prompt in (short, long)}
    for prompt in (short, long, short, long):
        short_sample(captured, prompt, policy)
    assert graphs.captures == 2
    only_replays()
    for prompt in (short, long, short):
        assert torch.equal(short_sample(captured, prompt, policy), expected[prompt])


def test_texts_of_any_length_share_a_capture_where_lengths_are_on_the_device(
    only_replays: Callable[[], None],
) -> None:
    sdpa, fp32 = BACKENDS["sdpa"], {"dtype": torch.float32}  # bf16 would round unlike lengths

    def by_mask(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
        return sdpa(q, k, v, torch.arange(k.shape[1]) < lengths[:, None])

    graphs = GraphRunner(CPU, record)
    captured, eager = runtime(graphs, **fp32), runtime(**fp32)
    reads = replace(sdpa, name="reads", attend_with_lengths=by_mask)
    captured.dit.attention.backend = reads
    short, long = PROMPTS[:2]
    expected = {each: short_sample(eager, each, "disca") for each in (short, long)}
    for prompt in (short, long):
        short_sample(captured, prompt, "disca")
    assert graphs.captures == 1
    only_replays()
    for prompt in (short, long):
        ours = short_sample(captured, prompt, "disca")
        torch.testing.assert_close(ours, expected[prompt], atol=1e-5, rtol=1e-4)


def short_sample(sampled: Runtime, prompt: str, policy: str | Policy, width: int = 8) -> Tensor:
    return sampled.generate(
        prompt, frames=1, height=8, width=width, schedule=SHORT, policy=policy
    ).latents


def test_a_state_that_goes_takes_its_own_captures(
    eager: Runtime, only_replays: Callable[[], None]
) -> None:
    graphs = GraphRunner(CPU, record)
    captured = runtime(graphs, max_states=2)
    captures = []
    at = partial(short_sample, prompt=PROMPTS[0], policy="disca")
    for width in (8, 8, 16, 16, 8, 24, 24):  # 16 is the one used least recently when 24 comes
        at(captured, width=width)
        captures.append(graphs.captures)
    assert captures == [0, 1, 1, 2, 2, 1, 2]
    expected = {width: at(eager, width=width) for width in (16, 24)}
    assert torch.equal(at(captured, width=16), expected[16]), "new again: 8 goes"
    only_replays()
    assert torch.equal(at(captured, width=24), expected[24])


def test_policies_of_one_name_have_states_of_their_own(eager: Runtime) -> None:
    graphs = GraphRunner(CPU, record)
    captured = runtime(graphs)
    for _ in range(3):
        for order in (0, 1):  # an equal policy at every turn
            ours, theirs = (
                short_sample(
                    each, PROMPTS[0], build_policy(f"taylor:order={order}", each.parts, (0, 1))
                )
                for each in (captured, eager)
            )
            assert torch.equal(ours, theirs)
    assert graphs.captures == 2


@pytest.mark.parametrize("policy", ["full", "disca"])
def test_runtimes_may_share_a_runner(policy: str) -> None:
    graphs = GraphRunner(CPU, record)
    drawn = [random_runtime(TINY, CPU, torch.float32, seed=seed) for seed in (0, 5)]
    plain, captured = (
        [with_tiny_prompts(Runtime(each.dit, each.predictor, graphs=kept)) for each in drawn]
        for kept in (None, graphs)
    )
    expected = [short_sample(each, PROMPTS[0], policy) for each in plain]
    assert not torch.equal(*expected)
    for _ in range(3):
        for each, like in zip(captured, expected, strict=True):
            assert torch.equal(short_sample(each, PROMPTS[0], policy), like)
    assert graphs.captures == 2


def test_what_a_sample_returned_stays(eager: Runtime) -> None:
    captured = runtime(GraphRunner(CPU, record))
    first = [latents(captured, PROMPTS[0], "disca", seed) for seed in range(4)]
    kept = [each.clone() for each in first]
    latents(captured, PROMPTS[0], "disca", 9)
    assert all(torch.equal(*each) for each in zip(first, kept, strict=True))


def test_guidance_and_cancel_are_followed(eager: Runtime) -> None:
    captured = runtime(GraphRunner(CPU, record))
    for seed in range(3):
        for scale in (2.0, 6.0):
            ours = latents(captured, PROMPTS[1], "disca", seed, guidance_scale=scale)
            assert torch.equal(
                ours, latents(eager, PROMPTS[1], "disca", seed, guidance_scale=scale)
            )
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(RuntimeError, match="cancelled before step 0"):
        latents(captured, PROMPTS[1], "disca", 0, cancel=cancel)


def doubled(x: Tensor, factor: int) -> Tensor:
    return x * factor


def test_captures_by_shape_and_constant() -> None:
    graphs = GraphRunner(CPU, record)
    for turn in range(3):
        for shape in (2, 3):
            for factor in (2, 5):
                x = torch.full((shape,), float(turn))
                assert torch.equal(graphs.run("key", doubled, x, factor), x * factor)
    assert graphs.captures == 4


@pytest.mark.parametrize("captured_within", [True, False])
def test_captured_within_inference_mode_and_replayed_outside(captured_within: bool) -> None:
    graphs = GraphRunner(CPU, record)
    for turn, within in enumerate([captured_within] * 2 + [not captured_within, captured_within]):
        with torch.inference_mode(within), torch.no_grad():
            x = torch.full((2,), float(turn))
            assert torch.equal(graphs.run("key", doubled, x, 2), 2 * x)
    assert graphs.captures == 1


def test_evict_then_replay() -> None:
    graphs = GraphRunner(CPU, record, max_captures=2)
    for turn in range(4):
        for key in range(3):
            x = torch.full((3,), float(10 * turn + key))
            assert torch.equal(graphs.run(key, doubled, x, 2), 2 * x)
        assert graphs.captures <= 2
    graphs.clear()
    assert graphs.captures == 0
    assert torch.equal(graphs.run(0, doubled, torch.ones(3), 2), torch.full((3,), 2.0))


class Factor:
    """Something that captures are made over."""


def test_what_is_captured_over_is_told_apart_and_dropped_alone() -> None:
    graphs = GraphRunner(CPU, record)
    factors = {Factor(): 2, Factor(): 5}
    for turn in range(3):
        for factor, value in factors.items():
            x = torch.full((2,), float(turn))
            got = graphs.run("key", lambda x, value=value: x * value, x, depends_on=[factor])
            assert torch.equal(got, x * value)
    assert graphs.captures == 2
    first, second = factors
    graphs.drop(first)
    assert graphs.captures == 1
    got = graphs.run("key", doubled, torch.ones(2), depends_on=[second])
    assert torch.equal(got, torch.full((2,), 5.0)), "a replay, whatever would be computed"


def test_what_is_captured_over_lives_as_long() -> None:
    graphs, factor = GraphRunner(CPU, record), Factor()
    for _ in range(2):
        graphs.run("key", doubled, torch.ones(2), 2, depends_on=[factor])
    alive = weakref.ref(factor)
    del factor
    assert alive() is not None, "its id would be the next one's"
    graphs.drop(alive())
    assert alive() is None
    assert graphs.captures == 0


def test_what_ran_once_is_forgotten_when_too_much_else_has() -> None:
    graphs = GraphRunner(CPU, record, max_warm=2)
    captures = []
    for key in (0, 1, 2, 0, 0):
        graphs.run(key, doubled, torch.ones(1), 2)
        captures.append(graphs.captures)
    assert captures == [0, 0, 0, 0, 1]


def test_what_is_bound_is_copied_once_for_each_object() -> None:
    graphs, copied = GraphRunner(CPU, record), []
    first, second = ({"x": torch.full((2,), value)} for value in (3.0, 5.0))
    copy = Tensor.copy_

    def spy(target: Tensor, source: Tensor) -> Tensor:
        copied.append(source.tolist())
        return copy(target, source)

    with patch.object(Tensor, "copy_", spy):
        for turn, bound in enumerate((first, first, first, second, second, first)):
            copied.clear()
            x = torch.full((2,), float(turn))
            got = graphs.run("key", lambda x, bound: {"sum": x + bound["x"]}, x, bound=bound)
            assert torch.equal(got["sum"], x + bound["x"])
            if turn > 1:
                changed = [bound["x"].tolist()] if turn in (3, 5) else []
                assert copied[: 1 + len(changed)] == [x.tolist(), *changed]
    assert graphs.captures == 1


def test_what_one_capture_leaves_is_read_by_another_without_a_copy() -> None:
    graphs = GraphRunner(CPU, record)
    for turn in range(4):
        half = graphs.run("first", doubled, torch.full((2,), float(turn)), 3)
        whole = graphs.run("second", lambda x: x + 1, half)
        assert torch.equal(whole, torch.full((2,), 3.0 * turn + 1))
    assert graphs.memory_bytes == 4 * 2 * 4, "an input and a result each, of which one is shared"
    graphs.clear()
    assert graphs.memory_bytes == 0


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Numbers of living graphs by pool, of a stand-in for PyTorch's graphs that does nothing."""
    alive: Counter[int] = Counter()

    class Graph:
        def capture_begin(self, pool: int, capture_error_mode: str) -> None:
            assert pool not in alive or alive[pool] > 0, "as PyTorch asserts use_count > 0"
            alive[pool] += 1
            weakref.finalize(self, alive.subtract, [pool])

        def capture_end(self) -> None: ...

        def replay(self) -> None: ...

    handles = itertools.count()
    for name, stand_in in {
        "CUDAGraph": Graph,
        "Stream": lambda device: None,
        "stream": lambda stream: nullcontext(),
        "graph_pool_handle": lambda: next(handles),
        "synchronize": lambda device: None,
        "empty_cache": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return alive


def test_captures_share_a_pool_and_those_after_the_last_have_another(pools: Counter[int]) -> None:
    graphs, first, second = GraphRunner(CPU, CudaCapture(CPU)), Factor(), Factor()

    def capture_both() -> None:
        for factor in (first, second) * 2:
            graphs.run("key", doubled, torch.ones(2), 2, depends_on=[factor])
        assert graphs.captures == 2

    capture_both()
    assert list((+pools).values()) == [2]
    graphs.clear()
    assert not +pools
    capture_both()
    assert list((+pools).values()) == [2]
    graphs.drop(first)
    capture_both()
    assert list((+pools).values()) == [2]
    for factor in (first, second):
        graphs.drop(factor)
    capture_both()
    assert list((+pools).values()) == [2]
    assert len(pools) == 3


def test_a_failing_capture_says_what_broke_it() -> None:
    def refuse(compute: Callable[[], object]) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    graphs = GraphRunner(CPU, refuse)
    graphs.run("key", doubled, torch.ones(1), 2)
    for key in ("key", "key", "another"):  # never eagerly instead
        said = r"graph of doubled .*stream is capturing\); end this process.*with graphs off"
        with pytest.raises(CaptureError, match=said):
            graphs.run(key, doubled, torch.ones(1), 2)


def test_a_thread_captures_what_it_has_run_itself() -> None:
    """Libraries have plans for each thread, and build none within a capture."""
    graphs, captures = GraphRunner(CPU, record), []

    def run() -> None:
        assert torch.equal(graphs.run("key", doubled, torch.ones(1), 2), torch.full((1,), 2.0))
        captures.append(graphs.captures)

    run()
    for _ in range(2):
        other = threading.Thread(target=lambda: [run(), run()])
        other.start()
        other.join()
    run()
    assert captures == [0, 0, 1, 1, 1, 1]


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """`generate` captures on a CPU, by the recorder."""
    monkeypatch.setattr(generate, "wants_graphs", lambda args, device: True)
    monkeypatch.setattr(graphs_module, "CudaCapture", lambda device: record)


def test_generate_captures_by_itself_on_a_gpu(
    pretended_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / f"{name}.safetensors" for name in ("captured", "plain")]
    eager = ["--ops", "reference", "--attention", "sdpa"]
    asked = ["generate", PROMPTS[0], "--size", "16x16x1", *eager, "--latents-out"]
    assert main([*asked, str(files[0])]) == 0
    monkeypatch.setattr(generate, "wants_graphs", wants_graphs)
    assert main([*asked, str(files[1])]) == 0
    captured, plain = (load_file(file)["latents"] for file in files)
    assert torch.equal(captured, plain)


def test_a_capture_that_fails_is_one_line(
    pretended_gpu: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(compute: Callable[[], object]) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs_module, "CudaCapture", lambda device: refuse)
    out = tmp_path / "none.safetensors"
    asked = ["generate", PROMPTS[0], "--size", "16x16x1", "--latents-out", out]
    told = refusal(asked, capsys)
    assert "a CUDA graph of run cannot be captured" in told
    assert told.endswith("start it with graphs off")
    assert not out.exists()


def test_graphs_are_on_where_a_gpu_is_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = CPU, torch.device("cuda")
    asked = [SimpleNamespace(graphs=graphs) for graphs in (None, True, False)]
    assert [wants_graphs(each, gpu) for each in asked] == [True, True, False]
    assert not wants_graphs(asked[0], cpu)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert [wants_graphs(each, gpu) for each in asked] == [False, True, False]


@pytest.mark.gpu
@pytest.mark.parametrize("ops", ["reference", "triton"])
@pytest.mark.parametrize("watched", [True, False])
def test_replay_equals_eager_on_a_gpu(ops: str, watched: bool) -> None:
    graphs = GraphRunner(torch.device("cuda"), max_captures=3)
    loaded = Runtime.load(DIT, PREDICTOR, device="cuda", dtype=torch.bfloat16, ops=ops)
    plain, captured = (
        with_tiny_prompts(Runtime(loaded.dit, loaded.predictor, graphs=each))
        for each in (None, graphs)
    )
    looking = {"on_step": lambda event: None} if watched else {}
    for seed, prompt in enumerate([*PROMPTS, *PROMPTS]):
        for policy in ("disca", "taylor"):
            expected = latents(plain, prompt, policy, seed)
            assert torch.equal(latents(captured, prompt, policy, seed, **looking), expected)
    assert graphs.memory_bytes > 0


@pytest.mark.gpu
def test_evict_then_replay_on_a_gpu() -> None:
    device = torch.device("cuda")
    graphs = GraphRunner(device, CudaCapture(device), max_captures=2)

    def work(x: Tensor, factor: int) -> Tensor:
        for _ in range(8):
            x = (x @ x.T @ x).tanh() * factor
        return x

    for turn in range(5):
        for key in (0, 1, 2, 1):
            x = torch.randn(64 + 64 * key, 64, device=device)
            assert torch.equal(graphs.run(key, work, x, 1 + turn % 2), work(x, 1 + turn % 2))


@pytest.mark.gpu
def test_clear_then_capture_again_on_a_gpu() -> None:
    device = torch.device("cuda")
    graphs, kept = GraphRunner(device), []

    def keeping(x: Tensor, factor: int) -> Tensor:
        kept.append(x * factor)  # memory of the pool, which PyTorch cannot forget then
        return kept[-1].clone()

    for turn in range(3):
        for key in (0, 1):
            x = torch.full((1000,), float(turn), device=device)
            for _ in range(2):
                assert torch.equal(graphs.run(key, keeping, x, 2 + key), x * (2 + key))
        assert graphs.captures == 2
        graphs.clear()
