"""The pipeline as a server embeds it: requests, stages, progress, closing, the program around."""

import ast
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import FrozenInstanceError, replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from torch import Tensor

import disca_rt
from disca_rt import (
    Busy,
    Cancelled,
    Closed,
    Conditioning,
    GraphRunner,
    Pipeline,
    Request,
    load_tiny,
    preset,
    to_frames,
    write_contact_sheet,
    write_mp4,
)
from disca_rt.cache.kept import WHOLE
from disca_rt.tiny.runtime import TinyEncoder
from golden_vectors import Golden, load_golden, relative_error
from recorded import record

DISCA = {"schedule": preset(5, 5.0, (0, 2)), "policy": "disca"}
CLIP = {**DISCA, "prompts": ["a red circle moving left"], "size": (3, 24, 32)}
CPU = torch.device("cpu")


def load(golden: Golden) -> Pipeline:
    return Pipeline.load(golden.dit, golden.predictor, dtype=torch.float32)


def request(golden: Golden, **fields: object) -> Request:
    given = {"conditioning": golden.conditioning, "latents": golden.io["latents"], **DISCA}
    return Request(**{**given, **fields})


@pytest.fixture(scope="module")
def golden() -> Golden:
    return load_golden("hyvideo10")


@pytest.fixture(scope="module")
def pipeline(golden: Golden) -> Pipeline:
    return load(golden)


def test_names_at_the_top_are_lazy_and_the_same_for_type_checkers() -> None:
    lazy = "import sys, disca_rt; dir(disca_rt); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", lazy], check=True)
    tree = ast.parse(Path(disca_rt.__file__).read_text())
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = {each.module: tuple(alias.name for alias in each.names) for each in checked.body}
    assert imports == disca_rt._HOMES
    names = [name for names in imports.values() for name in names]
    assert set(disca_rt.__all__) == {*names, "__version__"} <= set(dir(disca_rt))
    assert all(getattr(disca_rt, name).__name__ == name for name in names)
    with pytest.raises(AttributeError, match="'disca_rt' has no attribute 'Runtme'"):
        _ = disca_rt.Runtme


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompts": None}, "give either prompts or a conditioning"),
        ({"prompts": "a cat"}, "prompts must be a list of at least one text, got 'a cat'"),
        ({"prompts": []}, r"prompts must be a list of at least one text, got \[\]"),
        ({"size": None}, "either latents or latent_shape or size, got none of them"),
        ({"latent_shape": (12, 3, 8, 8)}, "got latent_shape and size"),
        ({"latents": torch.zeros(1, 12, 3, 12, 16)}, "got latents and size"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a finite number from 0"),
        ({"guidance_scale": -1.0}, "guidance_scale must be a finite number from 0, got -1.0"),
        ({"classifier_free_scale": float("inf")}, "classifier_free_scale must be a finite"),
        ({"seed": 2**63}, "seed must be from"),
        ({"seed": [0, -(2**64)]}, "seed must be from"),
        ({"seed": 1.5}, "seed must be a whole number, or one a sample, got a float"),
        ({"size": (5.0, 24, 32)}, r"size must be whole numbers \(frames, height, wid"),
        ({"size": (24, 32)}, r"size must be whole numbers \(frames, height, wid"),
        ({"size": None, "latent_shape": (12, 3.0, 8, 8)}, "latent_shape must be whole"),
        (
            {"size": None, "latents": np.zeros((1, 12, 3, 8, 8))},
            "latents must be a tensor, got a nd",
        ),
        ({"schedule": [1.0, 0.5]}, "schedule must be a Schedule or a Preset, got a list"),
        ({"schedule": "disca-n4"}, "schedule must be a Schedule or a Preset, got a str"),
        ({"policy": None}, "policy must be a policy or its name, got a NoneType"),
        ({"guidance_scale": "6"}, "guidance_scale must be a number, got a str"),
        ({"prompts": None, "conditioning": {}}, "conditioning must be a Conditioning, got a dict"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Request(**{**CLIP, **fields})


def test_a_request_is_frozen_and_its_sides_go_together(golden: Golden) -> None:
    with pytest.raises(FrozenInstanceError):
        Request(**CLIP).seed = 1
    with pytest.raises(ValueError, match="negative_prompt goes with prompts"):
        request(golden, negative_prompt="a red circle")
    with pytest.raises(ValueError, match="negative goes with a conditioning"):
        Request(**CLIP, negative=golden.conditioning)


def test_a_request_that_does_not_fit_runs_no_model(golden: Golden, pipeline: Pipeline) -> None:
    stages: list[str] = []
    unbatched = replace(golden.conditioning, text_mask=golden.conditioning.text_mask[0])
    for fields, message in (
        ({"policy": "teecache"}, "policy must be one of"),
        ({"conditioning": unbatched}, r"text_mask must be \[1, 16\], got \[16\]"),
        ({"latents": golden.io["latents"][0]}, r"latents must be \[1, 4, T, H, W\], got \[4, 3"),
        ({"latents": None, "latent_shape": (4, 8, 12)}, r"latent_shape must be \(4, T, H, W\)"),
        ({"latents": None, "latent_shape": (4, 3, -8, 12)}, "H must be a positive multiple of 2"),
        ({"latents": golden.io["latents"].to("meta")}, "latents must be a dense tensor"),
        ({"latents": golden.io["latents"].to_sparse()}, "latents must be a dense tensor"),
        ({"seed": [1, 2], "latents": None, "latent_shape": (4, 3, 8, 12)}, "seed must be one"),
        ({"latents": golden.io["latents"] * float("nan")}, "not finite"),
        ({"prompts": ["a cat"], "conditioning": None}, "give a saved conditioning"),
    ):
        with pytest.raises(ValueError, match=message):
            pipeline.run(request(golden, **fields), on_stage=stages.append)
    tiny, encoded = load_tiny(), []
    tiny.text_encoder = encoded.append
    with pytest.raises(ValueError, match=r"latents must be \[1, 12, T, H, W\]"):
        tiny.run(Request(**{**CLIP, "size": None}, latents=golden.io["latents"]))
    assert set(stages) <= {"conditioning"}
    assert not encoded


def test_seeds_of_its_own_for_each_sample_and_a_size_in_pixels(
    golden: Golden, pipeline: Pipeline
) -> None:
    pair = {name: torch.cat([t, t]) for name, t in golden.conditioning.tensors().items()}
    shape = {"latents": None, "size": (9, 64, 96)}
    both = pipeline.run(request(golden, **shape, conditioning=Conditioning(**pair), seed=[7, 3]))
    assert both.latents.shape == (2, 4, 3, 8, 12)
    for row, seed in enumerate((7, 3)):
        alone = pipeline.run(request(golden, **shape, seed=seed)).latents
        assert relative_error(both.latents[row : row + 1], alone) <= 1e-5


def test_progress_is_told_by_stage_and_step() -> None:
    told: list[object] = []
    tiny = load_tiny()
    sample = tiny.run(
        Request(**CLIP), on_stage=told.append, on_step=lambda event: told.append(event.step.index)
    )
    assert told == ["conditioning", "denoise", 0, 1, 2, 3, 4, "decode"]
    assert list(sample.times)[:2] == ["prompts", "conditioning"]
    assert sample.video.shape == (1, 3, 3, 24, 32)


@pytest.mark.parametrize(
    ("stage", "message"),
    [("conditioning", "before step 0"), ("denoise", "before step 0"), ("decode", "before decode")],
)
def test_cancellation_between_stages(stage: str, message: str) -> None:
    tiny, cancel = load_tiny(), threading.Event()
    before = {"conditioning": None, "denoise": "conditioning", "decode": "denoise"}[stage]
    if before is None:
        cancel.set()

    def on_stage(begun: str) -> None:
        assert begun != stage

    def on_step(event) -> None:
        if stage == "decode" and event.step.index == 4:
            cancel.set()

    class Cancelling(TinyEncoder):
        def __call__(self, *given: object, **named: object) -> Conditioning:
            if stage == "denoise":
                cancel.set()
            return super().__call__(*given, **named)

    tiny.text_encoder = Cancelling()
    with pytest.raises(Cancelled, match=message):
        tiny.run(Request(**CLIP), on_stage=on_stage, on_step=on_step, cancel=cancel)


def test_one_sample_at_a_time(golden: Golden, pipeline: Pipeline) -> None:
    def again(event) -> None:
        with pytest.raises(Busy, match="this Pipeline is sampling; make a second one"):
            pipeline.run(request(golden))
        with pytest.raises(Busy):
            pipeline.close()

    first = pipeline.run(request(golden), on_step=again).latents
    assert torch.equal(pipeline.run(request(golden)).latents, first)


def test_closing_frees_models_states_and_captures(golden: Golden) -> None:
    graphs = GraphRunner(CPU, record)
    loaded = load(golden)
    with loaded.twin(graphs=graphs) as pipeline:
        for _ in range(2):
            pipeline.run(request(golden))
        assert graphs.captures == 1
        (state,) = pipeline.denoiser._states.values()
        freed = [weakref.ref(state.slots[0][0][WHOLE][0]), weakref.ref(pipeline.dit)]
        del state
    pipeline.close()
    assert graphs.captures == 0
    assert freed[0]() is None
    assert freed[1]() is loaded.dit, "its twin still has it"
    loaded.close()
    assert freed[1]() is None
    asked = lambda: pipeline.run(request(golden)), lambda: pipeline.config, lambda: pipeline.twin()
    for ask in asked:
        with pytest.raises(Closed, match="this Pipeline is closed; make another one"):
            ask()


def test_guidance_of_both_kinds_where_it_is_asked_for(golden: Golden, pipeline: Pipeline) -> None:
    negative = replace(golden.conditioning, text_states=golden.conditioning.text_states.flip(1))
    alone = pipeline.run(request(golden, guidance_scale=3.0)).latents
    both = {"negative": negative, "guidance_scale": 3.0}
    one = pipeline.run(request(golden, **both, classifier_free_scale=1.0)).latents
    assert relative_error(one, alone) <= 1e-5, "at scale 1 the unconditional pass cancels"
    six = pipeline.run(request(golden, **both, classifier_free_scale=6.0)).latents
    assert relative_error(six, alone) > 1e-2
    for fields, message in (
        (both, "embeds its guidance; leave the negative conditioning out, or give a classifier"),
        ({"classifier_free_scale": 2.0}, "classifier_free_scale needs a negative conditioning$"),
    ):
        with pytest.raises(ValueError, match=message):
            pipeline.run(request(golden, **fields))
    fifteen = load_golden("hyvideo15")
    with pytest.raises(ValueError, match="give either guidance_scale or classifier_free_scale"):
        twice = {"guidance_scale": 2.0, "classifier_free_scale": 2.0}
        load(fifteen).run(request(fifteen, **twice, negative=fifteen.conditioning))
    with pytest.raises(ValueError, match=r"guidance_scale needs a negative .*: this base model"):
        load(fifteen).run(request(fifteen, guidance_scale=6.0))


@pytest.mark.parametrize("name", ["hyvideo10", "hyvideo15"])
def test_padding_changes_nothing_even_where_it_is_nan(name: str) -> None:
    golden = load_golden(name)
    pair = {n: torch.cat([t, t]) for n, t in golden.conditioning.tensors().items()}
    pair["text_mask"][0, 9:] = 0  # of unequal lengths, so that padding stays in the batch
    pair["text_mask"][1, 5:] = 0
    clean = Conditioning(**pair)
    padded = ~clean.text_mask.bool()[..., None]
    dirty = replace(clean, text_states=clean.text_states.masked_fill(padded, float("nan")))
    noise, pipeline = golden.io["latents"].repeat(2, 1, 1, 1, 1), load(golden)
    expected, got = (
        pipeline.run(request(golden, conditioning=each, latents=noise)).latents
        for each in (clean, dirty)
    )
    assert torch.equal(got, expected)


def set_default_dtype(dtype: torch.dtype) -> AbstractContextManager:
    torch.set_default_dtype(dtype)
    return nullcontext()


def outputs(policy: str) -> list[Tensor]:
    made = []
    for name in ("hyvideo10", "hyvideo15"):
        golden, shape = load_golden(name), {"latents": None, "seed": 3}
        shape["latent_shape"] = tuple(golden.io["latents"].shape[1:])
        for fields in ({}, shape):
            made.append(load(golden).run(request(golden, **fields, policy=policy)).latents)
    return [*made, load_tiny().run(Request(**{**CLIP, "policy": policy})).video]


@pytest.mark.parametrize(
    "around",
    [
        lambda: set_default_dtype(torch.bfloat16),
        lambda: set_default_dtype(torch.float64),
        lambda: torch.device("meta"),
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        torch.inference_mode,
        torch.enable_grad,
        lambda: nullcontext(torch.use_deterministic_algorithms(True)),
    ],
)
def test_what_the_program_around_sets_changes_nothing(
    around: Callable[[], AbstractContextManager],
) -> None:
    for policy in ("disca", "taylor"):
        expected = outputs(policy)
        try:
            with around():
                got = outputs(policy)
        finally:
            torch.set_default_dtype(torch.float32)
            torch.use_deterministic_algorithms(False)
        for ours, alone in zip(got, expected, strict=True):
            assert torch.equal(ours, alone)
            assert not ours.is_inference()


def test_a_precision_that_changes_numbers_is_said(golden: Golden, pipeline: Pipeline) -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.warns(RuntimeWarning, match="float32 matmul precision is 'medium'"):
            pipeline.run(request(golden))
    finally:
        torch.set_float32_matmul_precision("highest")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.run(request(golden))


def test_a_result_that_is_not_finite_is_raised_and_never_a_picture() -> None:
    tiny, stages = load_tiny(dtype=torch.float16), []
    noise = torch.full((1, 12, 3, 12, 16), 6e4)
    with pytest.raises(FloatingPointError, match="not finite in float16; try dtype float32"):
        tiny.run(Request(**{**CLIP, "size": None}, latents=noise), on_stage=stages.append)
    assert stages[-1] == "denoise", "nothing is decoded"
    tiny = load_tiny()
    tiny.codec = SimpleNamespace(
        latent_shape=tiny.codec.latent_shape,
        video_size=tiny.codec.video_size,
        decode=lambda latents: latents * float("nan"),
    )
    with pytest.raises(FloatingPointError, match="the decoded video is not finite in float32"):
        tiny.run(Request(**CLIP))
    with pytest.raises(ValueError, match="video has values that are not finite"):
        to_frames(torch.full((3, 1, 4, 4), float("nan")))


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (torch.rand(3, 1, 245, 301), "sides must be even for an mp4, got 301x245"),
        (torch.rand(3, 1, 240, 16386), "at most 16384, got 16386x240"),
        (torch.rand(1, 3, 1, 240, 240), r"video must be \[3, T, H, W\], one sample"),
        (torch.rand(3, 0, 240, 240), r"video must be \[3, T, H, W\]"),
        (torch.rand(3, 1, 0, 240), r"video must be \[3, T, H, W\]"),
        (torch.zeros(3, 1, 4, 4).byte(), r"float tensor with values in \[0, 1\], got torch.uint8"),
        (np.zeros((3, 1, 4, 4)), r"float tensor with values in \[0, 1\], got float64"),
    ],
)
def test_a_video_that_an_encoder_refuses_is_named(
    video: Tensor, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        write_mp4(tmp_path / "v.mp4", to_frames(video), 24)
    assert not list(tmp_path.iterdir())
    for fps in (0, -1, float("nan"), 1e9):
        with pytest.raises(ValueError, match="fps must be above 0 and at most 240, got"):
            write_mp4(tmp_path / "v.mp4", np.zeros((1, 2, 2, 3), np.uint8), fps)
    with pytest.raises(ValueError, match="frames must be uint8"):
        write_contact_sheet(tmp_path / "v.png", np.zeros((0, 2, 2, 3), np.uint8))
    assert not list(tmp_path.iterdir())
    write_mp4(tmp_path / "v.mp4", np.zeros((1, 2, 16384, 3), np.uint8), 23.976)
    with av.open(str(tmp_path / "v.mp4")) as video:
        assert video.streams.video[0].average_rate == Fraction("23.976")
