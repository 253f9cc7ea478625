"""BlockDance-Ada with a network: what it sees, what it decides, and files that do not fit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from cache_draws import CONFIG, OPS, SCALE, Draw, Models, learned_network, models
from cache_oracle import Oracle
from disca_rt.cache.gate_file import write_gates
from disca_rt.cache.method import Parts
from disca_rt.cache.network_file import write_network
from disca_rt.cache.policies import build_policy, resolve
from disca_rt.cache.policy import Policy
from disca_rt.conditioning import Conditioning
from disca_rt.graphs.runner import GraphRunner
from disca_rt.instruments.stopwatch import Stopwatch
from disca_rt.sampling.guidance import Guidance
from disca_rt.sampling.loop import StepEvent
from disca_rt.schedule import shifted
from golden_vectors import relative_error
from recorded import record

STEPS, RHO = 9, 3
PARTS = Parts(CONFIG, OPS)


@pytest.fixture(scope="module")
def eager() -> Models:
    return models()


NETWORK = f"blockdance-ada:net={learned_network(STEPS, RHO)}"


def drawn(guided: bool, batch: int, text: str = NETWORK) -> Draw:
    policy = build_policy(text, PARTS)
    draw = Draw(policy.rule, (), None, shifted(STEPS, 3.0), guided, batch, 5)
    return draw._replace(slots_of=policy.slots)


def events(built: Models, draw: Draw, per_sample: bool = False) -> list[StepEvent]:
    """The steps of a draw's sample, with copies of their latents."""
    seen: list[StepEvent] = []
    with torch.no_grad():
        built.denoiser.denoise(
            draw.latents,
            draw.conditions,
            schedule=draw.schedule,
            policy=Policy("drawn", draw.rule, draw.slots_of),
            guidance=Guidance(None, SCALE if draw.guided else None),
            stopwatch=Stopwatch(torch.device("cpu")),
            on_step=lambda each: seen.append(each._replace(latents=each.latents.clone())),
            per_sample=per_sample,
        )
    return seen


def by_hand(latents: Tensor, conditioning: Conditioning) -> Tensor:
    """The logits `[B, later]` of the network in the file."""
    w = load_file(learned_network(STEPS, RHO))
    cells = [F.adaptive_avg_pool3d(each, (2, 4, 4)) for each in (latents, latents.abs())]
    valid = conditioning.text_mask[:, :, None].float()
    text = (conditioning.text_states * valid).sum(1) / valid.sum(1)
    text = (text - text.mean(1, keepdim=True)) / (
        text.var(1, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    entering = torch.cat([each.flatten(1) for each in cells] + [text], dim=1)
    hidden = F.silu(entering @ w["hidden_weight"].T + w["hidden_bias"])
    return hidden @ w["out_weight"].T + w["out_bias"]


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_network_decides_on_the_latents_after_the_first_steps(
    guided: bool, batch: int, eager: Models
) -> None:
    draw = drawn(guided, batch)
    seen, dit = events(eager, draw), eager.denoiser.dit
    logits = by_hand(seen[RHO - 1].latents, draw.conditions[0]).mean(0)
    expected = ["full" if each >= 0 else "predicted" for each in logits]
    assert [each.kind for each in seen] == ["full"] * RHO + expected
    assert {*expected} == {"full", "predicted"}
    oracle = Oracle(dit, Policy("drawn", draw.rule, draw.slots_of), SCALE)
    with torch.no_grad():
        prepared = [dit.prepare(each, draw.latents.shape) for each in draw.conditions]
        plans = [each.plan for each in seen]
        by_loop = oracle.sample(draw.schedule, plans, draw.latents, prepared, None)
    assert relative_error(seen[-1].latents, by_loop) <= 1e-4


def test_each_sample_of_a_batch_is_decided_by_itself(eager: Models) -> None:
    draw = drawn(True, 3)
    seen = events(eager, draw, per_sample=True)
    of_samples = [seen[i * STEPS : (i + 1) * STEPS] for i in range(3)]
    for row, steps in enumerate(of_samples):
        own = draw.conditions[0].rows(slice(row, row + 1))
        (logits,) = by_hand(steps[RHO - 1].latents, own)
        expected = ["full" if each >= 0 else "predicted" for each in logits]
        assert [each.kind for each in steps[RHO:]] == expected
    assert len({tuple(each.kind for each in steps) for steps in of_samples}) > 1, "they differ"


def test_captured_pieces_are_eager_ones(eager: Models) -> None:
    draw, captured = drawn(True, 1), models(graphs=GraphRunner(torch.device("cpu"), record))
    expected, plans = eager.sample(draw)
    for _ in range(3):
        latents, decided = captured.sample(draw)
        assert relative_error(latents, expected) <= 1e-6
        assert decided == plans


def test_other_methods_stand_ins_go_with_its_decisions(eager: Models) -> None:
    own, with_taylor = (events(eager, drawn(False, 1, NETWORK + more)) for more in ("", "+taylor"))
    assert [each.kind for each in own] == [each.kind for each in with_taylor]
    assert not torch.equal(own[-1].latents, with_taylor[-1].latents)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("rho", "must say rho, at least 1, and decide on a step, got rho '0'"),
        ("gates", "must be a file of format 'disca_rt decision network', version 1, got"),
        ("names", r"has no weights of a network, got \['hidden_bias'\]; give a file that"),
        ("sizes", "is for a model of double 3, and this one has 2"),
        ("shape", r"out_weight of .* must be \[6, 64\] for this model, got \[6, 3\]"),
    ],
)
def test_files_that_do_not_fit_are_refused(wrong: str, message: str, tmp_path: Path) -> None:
    path, weights = tmp_path / "net.safetensors", load_file(learned_network(STEPS, RHO))
    config, rho = CONFIG, 0 if wrong == "rho" else 3
    if wrong == "names":
        weights = {"hidden_bias": weights["hidden_bias"]}
    if wrong == "sizes":
        config = replace(CONFIG, double=3)
    if wrong == "shape":
        weights["out_weight"] = torch.zeros(6, 3)
    if wrong == "gates":
        write_gates(path, {"gates": torch.zeros(9, 6)}, config, "l2c")
    else:
        write_network(path, weights, rho, config)
    with pytest.raises(ValueError, match=message):
        build_policy(f"blockdance-ada:net={path}", PARTS)


def test_a_file_for_other_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="is for 9 steps, got 4; sample with as many"):
        resolve(shifted(4, 5.0), NETWORK, PARTS)


def test_a_list_and_a_network_are_one_or_the_other() -> None:
    text = f"{NETWORK},rho=1,reuse=1"
    with pytest.raises(ValueError, match="needs rho and reuse, or net=FILE, got"):
        build_policy(text, PARTS)
