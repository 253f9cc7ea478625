"""Captured steps and trajectories give what eager ones give, bit by bit; captures come and go."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from disca_rt.cli import main
from disca_rt.commands import generate
from disca_rt.commands.graphs import wants_graphs
from disca_rt.models.dit import DiT
from disca_rt.runtime import graphs as graphs_module
from disca_rt.runtime.graphs import CaptureError, CudaCapture, GraphRunner
from disca_rt.runtime.runtime import Runtime
from disca_rt.schedule import Schedule
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
SCHEDULE = Schedule(7, shift=5.0, step_list=(0, 1, 4))


def runtime(graphs: GraphRunner | None = None, device: str = "cpu") -> Runtime:
    loaded = Runtime.load(DIT, PREDICTOR, device=device)
    return with_tiny_prompts(Runtime(loaded.dit, loaded.predictor, graphs=graphs))


def latents(sampled: Runtime, prompt: str, policy: str, seed: int, **arguments: Any) -> Tensor:
    return sampled.generate(
        prompt, **SIZE, schedule=SCHEDULE, policy=policy, seed=seed, **arguments
    ).latents


@pytest.fixture(scope="module")
def eager() -> Runtime:
    return runtime()


@pytest.mark.parametrize("policy", ["disca", "full", "taylor", "hermite", "reuse"])
@pytest.mark.parametrize("watched", [True, False])
def test_replay_equals_eager(policy: str, watched: bool, eager: Runtime) -> None:
    graphs = GraphRunner(CPU, record)
    captured = runtime(graphs)
    looking = {"on_step": lambda event: None} if watched else {}
    for seed, prompt in enumerate([*PROMPTS, PROMPTS[0]]):  # of different text lengths
        expected = latents(eager, prompt, policy, seed)
        assert torch.equal(latents(captured, prompt, policy, seed, **looking), expected)
    assert graphs.captures > 0


def test_no_python_runs_at_a_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    captured = runtime(GraphRunner(CPU, record))
    for seed in range(2):
        latents(captured, PROMPTS[0], "disca", seed)
    expected = latents(runtime(), PROMPTS[0], "disca", 2)

    def refuse(*arguments: object) -> None:
        raise AssertionError("a replayed trajectory embeds nothing")

    monkeypatch.setattr(DiT, "embed", refuse)
    assert torch.equal(latents(captured, PROMPTS[0], "disca", 2), expected)


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


def test_another_size_gives_up_the_old_buffers(eager: Runtime) -> None:
    graphs = GraphRunner(CPU, record)
    captured = runtime(graphs)
    for _ in range(2):
        latents(captured, PROMPTS[0], "disca", 0)
    assert graphs.captures == 1
    small = {**SIZE, "width": 16}
    for seed in range(3):
        ours, theirs = (
            each.generate(PROMPTS[0], **small, schedule=SCHEDULE, policy="disca", seed=seed)
            for each in (captured, eager)
        )
        assert torch.equal(ours.latents, theirs.latents)
    assert graphs.captures == 1
    assert torch.equal(
        latents(captured, PROMPTS[0], "disca", 5), latents(eager, PROMPTS[0], "disca", 5)
    )


def test_two_runtimes_in_one_process(eager: Runtime) -> None:
    both = [runtime(GraphRunner(CPU, record)) for _ in range(2)]
    for seed in range(3):
        expected = latents(eager, PROMPTS[0], "disca", seed)
        assert all(torch.equal(latents(each, PROMPTS[0], "disca", seed), expected) for each in both)


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
    graphs = GraphRunner(CPU, record, most=2)
    for turn in range(4):
        for key in range(3):
            x = torch.full((3,), float(10 * turn + key))
            assert torch.equal(graphs.run(key, doubled, x, 2), 2 * x)
        assert graphs.captures <= 2
    graphs.clear()
    assert graphs.captures == 0
    assert torch.equal(graphs.run(0, doubled, torch.ones(3), 2), torch.full((3,), 2.0))


def test_what_ran_once_is_forgotten_when_too_much_else_has() -> None:
    graphs = GraphRunner(CPU, record, most_warm=2)
    captures = []
    for key in (0, 1, 2, 0, 0):
        graphs.run(key, doubled, torch.ones(1), 2)
        captures.append(graphs.captures)
    assert captures == [0, 0, 0, 0, 1]


def test_memory_is_that_of_the_buffers() -> None:
    graphs = GraphRunner(CPU, record)
    for _ in range(2):
        graphs.run(0, doubled, torch.ones(6), 2)
    assert graphs.memory_bytes == 2 * 6 * 4
    graphs.clear()
    assert graphs.memory_bytes == 0


def test_a_failing_capture_says_what_broke_it() -> None:
    def refuse(compute: Callable[[], object]) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    graphs = GraphRunner(CPU, refuse)
    graphs.run("key", doubled, torch.ones(1), 2)
    for _ in range(2):  # never eagerly instead
        with pytest.raises(CaptureError, match=r"graph of doubled .*stream is capturing\); switch"):
            graphs.run("key", doubled, torch.ones(1), 2)


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """`generate` captures on a CPU, by the recorder."""
    monkeypatch.setattr(generate, "wants_graphs", lambda args, device: True)
    monkeypatch.setattr(graphs_module, "CudaCapture", lambda device: record)


def test_generate_captures_by_itself_on_a_gpu(
    pretended_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / f"{name}.safetensors" for name in ("captured", "plain")]
    asked = ["generate", PROMPTS[0], "--size", "16x16x1", "--latents-out"]
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
    assert "a CUDA graph of decided step cannot be captured" in told
    assert told.endswith("switch graphs off")
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
    graphs = GraphRunner(torch.device("cuda"), most=3)
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
    graphs = GraphRunner(device, CudaCapture(device), most=2)

    def work(x: Tensor, factor: int) -> Tensor:
        for _ in range(8):
            x = (x @ x.T @ x).tanh() * factor
        return x

    for turn in range(5):
        for key in (0, 1, 2, 1):
            x = torch.randn(64 + 64 * key, 64, device=device)
            assert torch.equal(graphs.run(key, work, x, 1 + turn % 2), work(x, 1 + turn % 2))
