"""The models against the authors' outputs: 1e-5 on single forwards, 1e-4 on trajectories."""

import threading
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from disca_rt.models.blocks import run_blocks
from disca_rt.models.predictor import Predictor
from disca_rt.models.prepared import Prepared
from disca_rt.pipeline.runtime import Runtime
from disca_rt.sampling.loop import Cancelled, StepEvent
from disca_rt.tokens import StepContext
from golden_vectors import NAMES, Golden, load_golden, relative_error

FORWARD, TRAJECTORY = 1e-5, 1e-4
INTERPRETED_STEPS = 2  # of up to 10 s each; in 1.0 both are full, in 1.5 the second is predicted


@pytest.fixture(scope="module", params=["reference", "triton"])
def ops(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=NAMES)
def golden(request: pytest.FixtureRequest, ops: str) -> Golden:
    """On the GPU for the fused ops, where there is one; in Triton's interpreter elsewhere."""
    on_gpu = ops == "triton" and torch.cuda.is_available()
    return load_golden(request.param, "cuda" if on_gpu else "cpu")


@pytest.fixture(scope="module")
def runtime(golden: Golden, ops: str) -> Runtime:
    return Runtime.load(
        golden.dit, golden.predictor, device=golden.device, dtype=torch.float32, ops=ops
    )


@pytest.fixture(scope="module")
def last_hidden_state(golden: Golden, runtime: Runtime) -> tuple[Tensor, StepContext, Prepared]:
    """Tokens of a full step, from which its velocity and a predicted step follow."""
    dit = runtime.dit
    prepared = dit.prepare(golden.conditioning, golden.io["latents"].shape)
    step = golden.step_inputs(golden.settings["full_step_index"])
    tokens, context = dit.embed(golden.io["latents"], step, prepared)
    return run_blocks(dit.blocks, tokens, context), context, prepared


def test_full_forward(golden: Golden, runtime: Runtime, last_hidden_state) -> None:
    tokens, context, prepared = last_hidden_state
    velocity = runtime.dit.velocity(tokens, context, prepared)
    assert relative_error(velocity, golden.io["velocity_full"]) <= FORWARD


def test_last_hidden_state(golden: Golden, last_hidden_state) -> None:
    tokens, context, _ = last_hidden_state
    if "feature_full" in golden.io:
        expected = golden.io["feature_full"][golden.io["feature_valid"]][None]
    else:
        valid_text = golden.io["feature_full_txt"][:, : tokens.shape[1] - context.layout.img_len]
        expected = torch.cat([golden.io["feature_full_img"], valid_text], dim=1)
    assert relative_error(tokens, expected) <= FORWARD


def test_predicted_step(golden: Golden, runtime: Runtime, last_hidden_state) -> None:
    cached, _, prepared = last_hidden_state
    step = golden.step_inputs(golden.settings["predictor_step_index"])
    current, context = runtime.dit.embed(golden.io["latents_2"], step, prepared)
    predictor: Predictor = runtime.predictor
    velocity = runtime.dit.velocity(predictor(current, cached, context), context, prepared)
    assert relative_error(velocity, golden.io["velocity_predictor"]) <= FORWARD


def test_disca_trajectory_at_every_step(golden: Golden, runtime: Runtime, ops: str) -> None:
    seen, enough = [], threading.Event()
    steps = golden.schedule.steps
    if (ops, golden.device) == ("triton", "cpu"):
        steps = INTERPRETED_STEPS

    def look(event: StepEvent) -> None:
        seen.append(event.latents.clone())
        if len(seen) == steps:
            enough.set()

    with pytest.raises(Cancelled) if steps < golden.schedule.steps else nullcontext():
        sample = runtime.sample(
            golden.conditioning,
            latents=golden.io["latents"],
            schedule=golden.schedule,
            policy="disca",
            guidance_scale=6.0 if runtime.config.guidance_embed else None,
            on_step=look,
            cancel=enough,
        )
        assert relative_error(sample.latents, golden.io["latents_disca"]) <= TRAJECTORY
    assert len(seen) == steps
    for index, expected in enumerate(golden.io["trajectory_disca"][:steps]):
        assert relative_error(seen[index], expected) <= TRAJECTORY, f"step {index}"


def test_full_trajectory(golden: Golden, runtime: Runtime, ops: str) -> None:
    if (ops, golden.device) == ("triton", "cpu"):
        pytest.skip("a minute in the interpreter; the trajectory above has full steps too")
    sample = runtime.sample(
        golden.conditioning,
        latents=golden.io["latents"],
        schedule=golden.schedule,
        policy="full",
        guidance_scale=6.0 if runtime.config.guidance_embed else None,
    )
    expected = golden.io["latents_restricted_meanflow"]
    assert relative_error(sample.latents, expected) <= TRAJECTORY


def test_schedule(golden: Golden) -> None:
    assert torch.equal(torch.tensor(golden.schedule.schedule.sigmas), golden.io["sigmas"].cpu())
    timesteps = torch.tensor([step.t for step in golden.schedule.schedule])
    assert torch.equal(timesteps, golden.io["timesteps"].cpu())
