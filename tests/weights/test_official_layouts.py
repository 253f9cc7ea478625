"""Every official key layout gives the authors' outputs, in fp32 to 1e-5."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from disca_rt.models.blocks import run_blocks
from disca_rt.models.dit import DiT
from disca_rt.models.predictor import Predictor
from disca_rt.weights.load import load_dit, load_predictor
from golden_vectors import Golden, relative_error
from weights.layout_writers import PREDICTOR_WRITERS, WRITERS

TOLERANCE = 1e-5


def full_step(dit: DiT, vectors: Golden) -> tuple[torch.Tensor, torch.Tensor]:
    """The velocity of the golden full step and the last hidden state."""
    prepared = dit.prepare(vectors.conditioning, vectors.io["latents"].shape)
    step = vectors.step_inputs(vectors.settings["full_step_index"])
    tokens, context = dit.embed(vectors.io["latents"], step, prepared)
    tokens = run_blocks(dit.blocks, tokens, context)
    return dit.velocity(tokens, context, prepared), tokens


def predicted_step(
    dit: DiT, predictor: Predictor, cached: torch.Tensor, vectors: Golden
) -> torch.Tensor:
    prepared = dit.prepare(vectors.conditioning, vectors.io["latents_2"].shape)
    step = vectors.step_inputs(vectors.settings["predictor_step_index"])
    current, context = dit.embed(vectors.io["latents_2"], step, prepared)
    return dit.velocity(predictor(current, cached, context), context, prepared)


@pytest.mark.parametrize("layout", WRITERS)
def test_dit(vectors: Golden, layout: str, tmp_path: Path) -> None:
    shutil.copy(vectors.folder / "config.json", tmp_path)
    source = WRITERS[layout](tmp_path, load_file(vectors.dit))
    dit = load_dit(source, dtype=torch.float32)
    velocity, _ = full_step(dit, vectors)
    assert relative_error(velocity, vectors.io["velocity_full"]) <= TOLERANCE


@pytest.mark.parametrize("layout", PREDICTOR_WRITERS)
def test_predictor(vectors: Golden, layout: str, tmp_path: Path) -> None:
    source = PREDICTOR_WRITERS[layout](tmp_path, load_file(vectors.predictor))
    dit = load_dit(vectors.dit, dtype=torch.float32)
    predictor = load_predictor(source, dit.config, dtype=torch.float32)
    velocity = predicted_step(dit, predictor, full_step(dit, vectors)[1], vectors)
    assert relative_error(velocity, vectors.io["velocity_predictor"]) <= TOLERANCE


def test_own_dtype_and_values(vectors: Golden) -> None:
    dit = load_dit(vectors.dit)
    expected = load_file(vectors.dit)
    assert dit.dtype == torch.bfloat16
    assert dit.state_dict().keys() == expected.keys()
    assert all(torch.equal(t, expected[name]) for name, t in dit.state_dict().items())


def test_entries_that_share_storage(vectors_10: Golden, folder: Path) -> None:
    tensors = load_file(vectors_10.dit)
    shared = torch.cat([t.flatten() for t in tensors.values()])
    offset, views = 0, {}
    for name, tensor in tensors.items():
        views[name] = shared[offset : offset + tensor.numel()].view_as(tensor)
        offset += tensor.numel()
    views["time_r_in.mlp.0.weight"] = views["time_in.mlp.0.weight"]  # one tensor, two names
    torch.save({"module": views, "ema": views}, folder / "shared.pt")
    dit = load_dit(folder / "shared.pt")
    expected = tensors | {"time_r_in.mlp.0.weight": tensors["time_in.mlp.0.weight"]}
    assert all(torch.equal(t, expected[name]) for name, t in dit.state_dict().items())
    assert dit.time_r_in.mlp[0].weight.data_ptr() != dit.time_in.mlp[0].weight.data_ptr()


def test_transposed_views_load_as_values(vectors_10: Golden, folder: Path) -> None:
    tensors = load_file(vectors_10.predictor)
    tensors["fusion_mlp.2.weight"] = tensors["fusion_mlp.2.weight"].t()
    torch.save(tensors, folder / "view.pt")
    predictor = load_predictor(folder / "view.pt")
    assert torch.equal(predictor.fusion_mlp[2].weight, tensors["fusion_mlp.2.weight"])
