"""The line when memory runs out: what was needed, and what would fit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from disca_rt.commands.out_of_memory import (
    capacity,
    explained,
    explanation,
    refuse_hopeless,
    runtime_need,
)
from disca_rt.config import MODELS, predictor_config
from disca_rt.measure.random_models import random_runtime
from disca_rt.models.fp8_table import fp8_table
from disca_rt.pipeline.request import Request
from disca_rt.pipeline.runtime import Runtime
from disca_rt.tiny.config import TINY
from disca_rt.vae.sizes import SIZES
from disca_rt.work.memory import Need, fits, footprint
from golden_vectors import Golden, load_golden
from refusal import refusal

BIG = MODELS["hunyuan-video-meanflow"]
NEED = Need(BIG, predictor_config(BIG), (33, 88, 88), text=256, itemsize=2)


def show(size: tuple[int, int, int]) -> str:
    frames, height, width = SIZES[BIG.family].video_size(*size)
    return f"{width}x{height}x{frames}"


def test_an_explanation_names_what_was_needed_and_what_would_fit() -> None:
    said = explanation(NEED, 30 * 10**9, show)
    assert said == (
        "needs about 32.7 GB (weights 26.3 GB, cache 394.1 MB, activations 6.0 GB) of 30.0 GB; "
        "would fit: size 704x704x73, or --fp8-weights, or 2 ranks (torchrun)"
    )


def test_graphs_that_are_too_much_are_told() -> None:
    said = explanation(NEED._replace(graphs=True), 35 * 10**9, show)
    ways = "would fit: size 704x704x89, or --no-graphs, or --fp8-weights, or 2 ranks (torchrun)"
    assert said.endswith(f"graphs 6.0 GB) of 35.0 GB; {ways}")
    assert "--no-graphs" not in explanation(NEED._replace(graphs=True), 30 * 10**9, show)


def test_fp32_is_told_of_bf16() -> None:
    said = explanation(NEED._replace(itemsize=4), 40 * 10**9, show)
    assert said.endswith("would fit: --dtype bfloat16, or --fp8-weights"), said


def test_fp8_weights_are_told_where_they_would_fit_and_are_not_on() -> None:
    assert "--fp8-weights" not in explanation(NEED, 20 * 10**9, show)
    said = explanation(NEED._replace(fp8="weights"), 20 * 10**9, show)
    assert said.startswith("needs about 20.4 GB (weights 13.8 GB")
    assert said.endswith("would fit: size 704x704x121, or 2 ranks (torchrun)")


def test_a_runtime_says_whether_its_weights_are_fp8() -> None:
    golden = load_golden("hyvideo10")
    given = {"conditioning": golden.conditioning, "latent_shape": (12, 1, 4, 4)}
    request = Request(**given, schedule=golden.schedule, policy="full")
    for fp8 in (None, "weights"):
        runtime = random_runtime(TINY, torch.device("cpu"), torch.float32, fp8=fp8)
        need = runtime_need(runtime, "reference", request, ranks=3)
        assert need.fp8 == fp8_table(fp8)
        assert (need.size, need.ranks, need.passes) == ((1, 4, 4), 3, 1)


def test_where_the_formula_says_it_fits_less_is_offered() -> None:
    """Something else is in memory, or it is in pieces."""
    said = explanation(NEED, 141 * 10**9, show)
    assert "; would fit: size 704x704x" in said
    assert "704x704x129" not in said


def test_ranks_on_one_cpu_share_its_memory() -> None:
    assert "ranks" not in explanation(NEED, 30 * 10**9, show, is_gpu=False)


def test_where_nothing_fits() -> None:
    assert explanation(NEED, 10**9, show).endswith("; no size of it would fit")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 6.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
        MemoryError(),
    ],
)
def test_every_kind_of_it_becomes_one_line(error: Exception) -> None:
    given = lambda: NEED, torch.device("cpu"), show
    with pytest.raises(MemoryError, match="needs about") as caught, explained(*given):
        raise error
    assert len(str(caught.value).splitlines()) == 1
    assert capacity(given[1]) > 10**9


def test_other_errors_are_left_as_they_are() -> None:
    given = lambda: NEED, torch.device("cpu"), show
    with pytest.raises(RuntimeError, match="shape"), explained(*given):
        raise RuntimeError("shape '[2]' is invalid")


def test_what_a_cpu_cannot_hold_is_refused_before_it_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu, there = torch.device("cpu"), 30 * 10**9
    monkeypatch.setattr("disca_rt.commands.out_of_memory.capacity", lambda device: there)
    with pytest.raises(MemoryError, match="would fit: size 704x704x73"):
        refuse_hopeless(NEED, cpu, show)
    refuse_hopeless(NEED._replace(size=(17, 88, 88)), cpu, show)


def test_what_the_host_of_a_gpu_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    room = {"cuda": 80 * 10**9, "cpu": 24 * 10**9}
    place = "disca_rt.commands.out_of_memory.capacity"
    monkeypatch.setattr(place, lambda device: room[device.type])
    kept = NEED._replace(policy="taylorseer:state=host,max_order=3", itemsize=2)
    with pytest.raises(MemoryError, match=r"^the host needs about .* of 24.0 GB") as told:
        refuse_hopeless(kept, torch.device("cuda"), show)
    assert "\n" not in str(told.value)
    room["cpu"] = 600 * 10**9
    refuse_hopeless(kept, torch.device("cuda"), show)


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (10**5, "needs about 2.8 MB (weights 2.8 MB"),  # the weights, which are not loaded then
        (10**7, "; would fit: size 704x704x"),  # the sample, beside weights that are loaded
    ],
)
def test_generate_refuses_on_a_cpu_what_it_would_be_killed_for(
    there: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    golden, loaded = load_golden("hyvideo10"), []
    monkeypatch.setattr("disca_rt.commands.out_of_memory.capacity", lambda device: there)
    load = Runtime.load
    monkeypatch.setattr(Runtime, "load", lambda *a, **k: loaded.append(a) or load(*a, **k))
    monkeypatch.setattr(Runtime, "run", None)
    saved = without(golden, "latents", tmp_path / "io.safetensors")
    models = ["--dit", golden.dit, "--conditioning", saved, "--size", "704x704x129"]
    out = ["--policy", "full", "--latents-out", tmp_path / "out.safetensors"]
    told = refusal(["generate", *models, *out], capsys)
    assert told.startswith("out of memory: ")
    assert said in told
    assert len(loaded) == (there > 10**6)


def without(golden: Golden, name: str, path: Path) -> Path:
    save_file({key: tensor for key, tensor in golden.io.items() if key != name}, path)
    return path


def test_a_container_has_what_its_control_group_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
    monkeypatch.setattr("disca_rt.instruments.capacity.GROUP_FILES", ((limit, used),))
    whole = capacity(torch.device("cpu"))
    used.write_text("400000\n")
    for text, expected in (("max\n", whole), ("1000000\n", 600_000)):
        limit.write_text(text)
        assert capacity(torch.device("cpu")) == pytest.approx(expected, rel=0.2)


def test_what_is_named_would_fit() -> None:
    assert fits(NEED._replace(size=(17, 88, 88)), 30 * 10**9)
    assert footprint(NEED._replace(ranks=2)).total <= 30 * 10**9


@pytest.mark.parametrize("command", ["generate", "profile"])
def test_a_command_says_before_what_it_takes_and_then_what_would_fit(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = []

    def sample(*_: object, **__: object) -> None:
        before.append(capsys.readouterr().out)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 6.00 GiB.")

    monkeypatch.setattr(Runtime, "run", sample)
    monkeypatch.chdir(tmp_path)
    told = refusal([command, "a red circle moving left", "--size", "96x96x9"], capsys)
    [said] = before
    assert said.startswith("memory: about ")
    assert told.startswith("out of memory: needs about ")
    assert "would fit: size " in told
    assert not list(tmp_path.iterdir())
