"""`inspect_checkpoint` says what a file is from its tensors alone."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from disca_rt.config import DiTConfig, PredictorConfig
from disca_rt.weights.errors import CheckpointError
from disca_rt.weights.inspect import inspect_checkpoint
from golden_vectors import Golden
from weights.layout_writers import split_for_tensor_parallel, write_sharded


def test_golden_dit(vectors: Golden) -> None:
    info = inspect_checkpoint(vectors.dit)
    tensors = load_file(vectors.dit)
    assert info.kind == "dit"
    assert info.variant == "meanflow"
    assert info.missing_for_disca == ()
    assert info.dtypes == {"bfloat16": len(tensors)}
    assert info.parameters == sum(t.numel() for t in tensors.values())
    assert isinstance(info.config, DiTConfig)
    for name in ("hidden", "heads", "double", "text_dim", "in_channels"):
        assert getattr(info.config, name) == vectors.settings[name]


def test_golden_predictor(vectors: Golden) -> None:
    info = inspect_checkpoint(vectors.predictor)
    assert (info.kind, info.variant) == ("predictor", "predictor")
    assert info.config == PredictorConfig(info.family, 64, 2, vectors.settings["pred_depth"])


def test_name_of_the_file_is_not_believed(folder: Path, vectors_10: Golden) -> None:
    path = folder / "hyvideo15_i2v_predictor_480p.safetensors"
    shutil.copy(vectors_10.dit, path)
    info = inspect_checkpoint(path)
    assert (info.family, info.kind) == ("hunyuan-video-1.0", "dit")


def test_layout_names(folder: Path, vectors_10: Golden) -> None:
    assert inspect_checkpoint(vectors_10.dit).layout == "official merged"
    torch.save({"module": split_for_tensor_parallel(load_file(vectors_10.dit))}, folder / "tp.pt")
    assert inspect_checkpoint(folder / "tp.pt").layout == "official tensor-parallel"


def test_paths_of_shards(folder: Path, vectors_10: Golden) -> None:
    index = write_sharded(folder, load_file(vectors_10.dit))
    assert len(inspect_checkpoint(index).paths) == 3


@pytest.mark.parametrize(
    ("absent", "variant", "missing"),
    [
        (("time_r_in.",), "cfg-distilled", ["time_r_in"]),
        (("time_r_in.", "guidance_in."), "base", ["time_r_in", "guidance_in"]),
    ],
)
def test_variants(
    folder: Path, vectors_10: Golden, absent: tuple[str, ...], variant: str, missing: list[str]
) -> None:
    tensors = {k: t for k, t in load_file(vectors_10.dit).items() if not k.startswith(absent)}
    save_file(tensors, folder / "dit.safetensors")
    info = inspect_checkpoint(folder / "dit.safetensors")
    assert info.variant == variant
    assert [line.split(":")[0] for line in info.missing_for_disca] == missing


def test_bad_files_raise_as_in_loading(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="not a HunyuanVideo"):
        inspect_checkpoint(tmp_path / "x.safetensors")
