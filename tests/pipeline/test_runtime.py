"""The runtime as other programs embed it."""

import threading
import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from disca_rt.cache.kept import WHOLE
from disca_rt.cache.policies import build_policy
from disca_rt.conditioning import Conditioning
from disca_rt.pipeline.runtime import Runtime
from disca_rt.sampling.loop import Cancelled
from disca_rt.schedule import preset
from disca_rt.tiny.runtime import load_tiny
from disca_rt.weights.load import load_dit, load_predictor
from golden_vectors import NAMES, Golden, load_golden, relative_error

DISCA = preset(5, 5.0, (0, 2))


def load(golden: Golden) -> Runtime:
    return Runtime.load(golden.dit, golden.predictor, dtype=torch.float32)


@pytest.fixture(scope="module", params=NAMES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return load_golden(request.param)


@pytest.fixture(scope="module")
def runtime(golden: Golden) -> Runtime:
    return load(golden)


def shape_of(golden: Golden) -> tuple[int, ...]:
    return tuple(golden.io["latents"].shape[1:])


def sample(runtime: Runtime, golden: Golden, **arguments) -> Tensor:
    defaults = {"schedule": DISCA, "policy": "disca", "latent_shape": shape_of(golden)}
    return runtime.sample(golden.conditioning, **{**defaults, **arguments}).latents


def test_same_seed_same_latents_other_seed_others(golden: Golden, runtime: Runtime) -> None:
    first = sample(runtime, golden, seed=3)
    assert torch.equal(sample(runtime, golden, seed=3), first)
    assert relative_error(sample(runtime, golden, seed=4), first) > 0.1


def test_results_are_ordinary_tensors(golden: Golden, runtime: Runtime) -> None:
    latents = sample(runtime, golden)
    latents.add_(1)
    weight = torch.ones((), requires_grad=True)
    (latents * weight).sum().backward()
    assert torch.isfinite(weight.grad)


def test_explicit_latents_are_the_noise_and_stay_untouched(
    golden: Golden, runtime: Runtime
) -> None:
    noise = torch.randn(1, *shape_of(golden), generator=torch.Generator().manual_seed(3))
    before = noise.clone()
    out = sample(runtime, golden, latents=noise, latent_shape=None)
    assert torch.equal(out, sample(runtime, golden, seed=3))
    assert torch.equal(noise, before)


def test_no_state_leaks_from_one_sample_into_the_next(golden: Golden, runtime: Runtime) -> None:
    fresh = sample(load(golden), golden, seed=1)
    sample(runtime, golden, seed=9)
    other_shape = list(shape_of(golden))
    if golden.conditioning.cond_latents is None:
        other_shape[1] = 1
        sample(runtime, golden, seed=9, latent_shape=tuple(other_shape))
    with pytest.raises(Cancelled, match="before step 4 of 5"):
        cancel_at(runtime, golden, step=3)
    sample(runtime, golden, policy="full", schedule=preset(2, 5.0))
    assert torch.equal(sample(runtime, golden, seed=1), fresh)


def cancel_at(runtime: Runtime, golden: Golden, step: int) -> None:
    cancel = threading.Event()
    steps = []

    def on_step(event) -> None:
        steps.append(event.step.index)
        if event.step.index == step:
            cancel.set()

    try:
        sample(runtime, golden, on_step=on_step, cancel=cancel)
    finally:
        assert steps == list(range(step + 1))


def test_callback_sees_each_step_once_and_its_kind(golden: Golden, runtime: Runtime) -> None:
    seen = []
    sample(runtime, golden, on_step=seen.append)
    assert [event.step.index for event in seen] == list(range(5))
    assert [event.kind for event in seen] == ["full", "predicted", "full", "predicted", "predicted"]
    assert all(event.steps == 5 for event in seen)


def test_an_error_in_a_callback_leaves_the_runtime_usable(golden: Golden, runtime: Runtime) -> None:
    def fail(event) -> None:
        raise KeyError("the caller's own")

    with pytest.raises(KeyError):
        sample(runtime, golden, on_step=fail)
    assert torch.isfinite(sample(runtime, golden)).all()


def test_kernels_on_a_cpu_are_refused_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="ops 'triton' run on a GPU, got device 'cpu'"):
        Runtime.load("nowhere.safetensors", ops="triton", device="cpu")


def test_two_runtimes_in_one_process_do_not_touch_each_other() -> None:
    goldens = [load_golden(name) for name in NAMES]
    alone = [sample(load(golden), golden) for golden in goldens]
    runtimes = [load(golden) for golden in goldens]
    results: dict[int, Tensor] = {}

    def inner(event) -> None:  # the second runs a whole sample inside each step of the first
        results[1] = sample(runtimes[1], goldens[1])

    results[0] = sample(runtimes[0], goldens[0], on_step=inner)
    assert torch.equal(results[0], alone[0])
    assert torch.equal(results[1], alone[1])


def test_two_runtimes_over_the_same_weights_in_two_threads() -> None:
    golden = load_golden("hyvideo10")
    first = load(golden)
    second = Runtime(first.dit, first.predictor)
    expected = [sample(first, golden, seed=seed) for seed in (1, 2)]
    results: dict[int, Tensor] = {}

    def work(runtime: Runtime, seed: int) -> None:
        results[seed] = sample(runtime, golden, seed=seed)

    threads = [
        threading.Thread(target=work, args=(runtime, seed))
        for runtime, seed in ((first, 1), (second, 2))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(results[1], expected[0])
    assert torch.equal(results[2], expected[1])


def test_rows_of_a_batch_are_the_samples_of_consecutive_seeds(
    golden: Golden, runtime: Runtime
) -> None:
    conditioning = golden.conditioning
    pair = Conditioning(
        **{name: t.repeat(2, *[1] * (t.ndim - 1)) for name, t in conditioning.tensors().items()}
    )
    arguments = {"schedule": DISCA, "policy": "disca", "latent_shape": shape_of(golden)}
    batch = runtime.sample(pair, seed=5, **arguments).latents
    for i in range(2):
        alone = sample(runtime, golden, seed=5 + i)
        assert relative_error(batch[i : i + 1], alone) <= 1e-5


def test_cache_buffers_are_reused_for_the_same_shape(golden: Golden, runtime: Runtime) -> None:
    def address() -> int:
        (state,) = runtime.denoiser._states.values()
        return state.slots[0][0][WHOLE][0].data_ptr()

    sample(runtime, golden)
    before = address()
    sample(runtime, golden)
    assert address() == before


def test_times_say_where_the_time_went(golden: Golden, runtime: Runtime) -> None:
    result = runtime.sample(
        golden.conditioning, schedule=DISCA, policy="disca", latent_shape=shape_of(golden)
    )
    counts = {name: stage.count for name, stage in result.times.items()}
    assert counts == {"conditioning": 1, "full steps": 2, "predicted steps": 3}
    assert all(stage.time_s > 0 for stage in result.times.values())


def base_runtime() -> tuple[Runtime, Golden]:
    """HunyuanVideo 1.5's vectors embed no guidance, so they can run classifier-free guidance."""
    golden = load_golden("hyvideo15")
    return load(golden), golden


def test_classifier_free_guidance_mixes_two_passes() -> None:
    runtime, golden = base_runtime()
    positive = golden.conditioning
    negative = replace(positive, text_states=positive.text_states.flip(1))
    one_step = {"schedule": preset(1, 5.0), "policy": "full"}
    noise = golden.io["latents"]

    def velocity(**arguments) -> Tensor:
        out = sample(runtime, golden, latents=noise, latent_shape=None, **one_step, **arguments)
        return noise - out

    cond = velocity()
    uncond = noise - runtime.sample(negative, latents=noise, **one_step).latents
    for scale in (0.0, 1.0, 6.0):
        mixed = velocity(negative=negative, guidance_scale=scale)
        assert relative_error(mixed, uncond + scale * (cond - uncond)) <= 1e-5


def test_embedded_guidance_changes_the_result() -> None:
    golden = load_golden("hyvideo10")
    runtime = load(golden)
    default = sample(runtime, golden)
    assert torch.equal(sample(runtime, golden, guidance_scale=6.0), default)
    assert relative_error(sample(runtime, golden, guidance_scale=2.0), default) > 1e-4


def test_a_predictor_of_another_model_is_refused() -> None:
    ten, fifteen = (load_golden(name) for name in NAMES)
    with pytest.raises(ValueError, match=r"family is hunyuan-video-1\.5 in the predictor"):
        Runtime(load(ten).dit, load(fifteen).predictor)


def test_a_predictor_in_another_dtype_is_refused() -> None:
    golden = load_golden("hyvideo10")
    low = load_predictor(golden.predictor, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="predictor must be where and as the DiT is"):
        Runtime(load(golden).dit, low)


def test_a_policy_of_the_callers_own(golden: Golden, runtime: Runtime) -> None:
    own = sample(runtime, golden, policy=build_policy("disca", runtime.parts, DISCA.step_list))
    assert torch.equal(own, sample(runtime, golden, policy="disca"))


def test_policies_of_one_name_have_states_of_their_own(golden: Golden, runtime: Runtime) -> None:
    schedule = preset(5, 5.0, (0, 1, 2))
    one, two = (f"taylor:order={order}" for order in (1, 2))
    expected = sample(load(golden), golden, schedule=schedule, policy=two)
    sample(runtime, golden, schedule=schedule, policy=one)
    assert torch.equal(sample(runtime, golden, schedule=schedule, policy=two), expected)


def test_without_graphs_one_state_is_kept(golden: Golden) -> None:
    runtime = load(golden)
    sample(runtime, golden, policy="reuse")
    (first,) = runtime.denoiser._states.values()
    first = weakref.ref(first)
    sample(runtime, golden, policy="disca")
    assert first() is None
    assert len(runtime.denoiser._states) == 1


def test_no_states_at_all_are_refused() -> None:
    golden = load_golden("hyvideo10")
    with pytest.raises(ValueError, match="max_states must be at least 1, got 0"):
        Runtime.load(golden.dit, golden.predictor, max_states=0)


def test_bf16_is_near_fp32_on_the_same_inputs(golden: Golden, runtime: Runtime) -> None:
    low = load_dit(golden.dit, dtype=torch.bfloat16)
    step = golden.step_inputs(3)
    velocities = []
    for dit in (low, runtime.dit):
        prepared = dit.prepare(golden.conditioning, golden.io["latents"].shape)
        velocities.append(dit(golden.io["latents"], step, prepared))
    assert velocities[0].dtype == torch.bfloat16
    # 2^-8 per rounding, some tens of roundings along the depth: a few per cent at the most.
    assert relative_error(*velocities) <= 0.03


@pytest.mark.parametrize(("dtype", "expected"), [(torch.bfloat16, 6016.0), (torch.float32, 6000.0)])
def test_guidance_is_cast_before_it_is_multiplied(
    dtype: torch.dtype, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = load_golden("hyvideo10")
    runtime = Runtime.load(golden.dit, golden.predictor, dtype=dtype)
    fed = []
    timed = runtime.dit.timed

    def spy(steps, prepared):
        fed.append(steps)
        return timed(steps, prepared)

    monkeypatch.setattr(runtime.dit, "timed", spy)
    sample(runtime, golden)
    assert {each for steps in fed for each in steps.guidance.tolist()} == {expected}
    told = [each for steps in fed for each in steps.timestep_r.tolist()]
    assert told == [*(s.r for s in DISCA.schedule)]


def test_states_of_inference_mode_serve_outside_of_it() -> None:
    runtime = load_tiny()
    given = {"frames": 1, "height": 8, "width": 8, "schedule": preset(3, 5.0, (0, 2))}
    with torch.inference_mode():
        within = runtime.generate(["a red circle moving left"], policy="disca", **given)
    outside = runtime.generate(["a red circle moving left"], policy="disca", **given)
    assert torch.equal(within.latents, outside.latents)
