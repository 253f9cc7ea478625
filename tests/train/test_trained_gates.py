"""Gates, heads and a network in ladder/caches: trained by runs beside them, better than chance."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from disca_rt.cache.gate_file import write_gates
from disca_rt.cache.network_file import read_network
from disca_rt.cache.plan import Act, StepPlan
from disca_rt.schedule import preset
from disca_rt.tiny.config import GUIDANCE_SCALE, SHIFT
from disca_rt.tiny.evaluate import SIZE
from disca_rt.tiny.prompts import held_out_prompts
from disca_rt.tiny.runtime import load_tiny
from train.small import GATES

LADDER = Path(__file__).parents[2] / "ladder"
KIND = {"l2c": "gates", "harmonica": "gates", "lazydit": "heads"}
STEPS = 20
PROMPTS = held_out_prompts(4, seed=7)


@pytest.fixture(scope="module")
def runtime() -> Any:
    return load_tiny()


def sampled(runtime: Any, policy: str) -> tuple[list[Tensor], list[list[StepPlan]]]:
    """The last latents of each prompt, and the plans of its steps."""
    latents, plans = [], []
    for number, prompt in enumerate(PROMPTS):
        seen: list[Any] = []
        runtime.generate(
            prompt,
            **SIZE,
            schedule=preset(STEPS, SHIFT),
            policy=policy,
            guidance_scale=GUIDANCE_SCALE,
            seed=number,
            on_step=lambda event, seen=seen: seen.append((event.plan, event.latents.clone())),
        )
        plans.append([plan for plan, _ in seen])
        latents.append(seen[-1][1])
    return latents, plans


def distance(latents: list[Tensor], uncached: list[Tensor]) -> float:
    pairs = zip(latents, uncached, strict=True)
    return sum(((a - b).norm() / b.norm()).item() for a, b in pairs) / len(uncached)


def stand_ins(plans: list[StepPlan]) -> Tensor:
    """Which slots stand in at each step, `[steps, slots]`."""
    return torch.tensor([[act is Act.STAND_IN for act in plan.passes[0]] for plan in plans])


def at_random(like: Tensor, allowed: list[int], path: Path, config: Any) -> str:
    """Gates of which as many are 0 as `like` has true, anywhere in the steps `allowed`."""
    numbers = torch.Generator().manual_seed(0)
    gates = torch.ones(like.shape)
    places = torch.randperm(len(allowed) * like.shape[1], generator=numbers)[: int(like.sum())]
    rows = gates[allowed].flatten()
    rows[places] = 0
    gates[allowed] = rows.reshape(len(allowed), -1)
    write_gates(path, {"gates": gates}, config, "random")
    return f"l2c:gates={path}"


@pytest.fixture(scope="module")
def uncached(runtime: Any) -> list[Tensor]:
    return sampled(runtime, "full")[0]


@pytest.mark.parametrize("method", GATES)
def test_trained_gates_are_nearer_than_as_many_at_random(
    method: str, runtime: Any, uncached: list[Tensor], tmp_path: Path
) -> None:
    policy = f"{method}:{KIND[method]}={LADDER / 'caches' / f'{method}.safetensors'}"
    latents, plans = sampled(runtime, policy)
    reused = stand_ins(plans[0])
    steps = range(1, STEPS, 1 if method == "harmonica" else 2)
    assert not reused[[step for step in range(STEPS) if step not in steps]].any()
    assert reused.float().mean() > 0.1, "and it saves something"
    random = at_random(reused, [*steps], tmp_path / "random.safetensors", runtime.config)
    at_chance, _ = sampled(runtime, random)
    assert 2 * distance(latents, uncached) < distance(at_chance, uncached)


def test_a_trained_network_is_nearer_than_lists_of_as_many_steps_at_random(
    runtime: Any, uncached: list[Tensor]
) -> None:
    path = LADDER / "caches" / "blockdance-ada.safetensors"
    latents, plans = sampled(runtime, f"blockdance-ada:net={path}")
    kinds = [[plan.label for plan in of_sample] for of_sample in plans]
    rho = read_network(str(path), runtime.config).rho
    assert all(of_sample[:rho] == ["full"] * rho for of_sample in kinds)
    reused = {of_sample.count("predicted") for of_sample in kinds}
    assert min(reused) >= (STEPS - rho) // 2, "and it saves something"
    at_chance = []
    for seed in range(2):
        order = torch.randperm(STEPS - rho, generator=torch.Generator().manual_seed(seed))
        reuse = ",".join(str(int(place < max(reused))) for place in order.tolist())
        lists, _ = sampled(runtime, f"blockdance-ada:rho={rho},reuse={reuse}")
        at_chance.append(distance(lists, uncached))
    assert distance(latents, uncached) < 0.5 * sum(at_chance) / 2


@pytest.mark.parametrize("method", [*GATES, "blockdance-ada"])
def test_the_run_of_a_file_is_kept_beside_it(method: str) -> None:
    folder = LADDER / "runs" / f"cache-{method}"
    described = json.loads((folder / "run.json").read_text())
    losses = [json.loads(line) for line in (folder / "loss.jsonl").read_text().splitlines()]
    path = LADDER / "caches" / f"{method}.safetensors"
    learned, rho = load_file(path), 0
    if method == "blockdance-ada":
        learned, rho = {"": learned["out_bias"]}, 8
    (tensor,) = learned.values()
    assert rho + len(tensor) == described["sampling_steps"] == STEPS
    assert (described["shift"], described["guidance"]) == (SHIFT, GUIDANCE_SCALE)
    assert losses[-1]["step"] == described["run"]["steps"]
    assert losses[-1]["computed"] < losses[0]["computed"]
    with safe_open(path, "pt") as file:
        assert file.metadata()["method"] == method
