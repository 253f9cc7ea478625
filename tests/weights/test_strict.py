"""Strictness: one error that lists every fault by its name in the file, and says what is wrong."""

import io
import json
import os
import shutil
import warnings
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from disca_rt.weights.errors import CheckpointError, CheckpointWarning
from disca_rt.weights.load import load_dit, load_predictor
from golden_vectors import Golden, load_golden
from weights.fp8_writer import coded
from weights.fp8_writer import write as write_fp8
from weights.layout_writers import split_for_tensor_parallel, write_sharded


def refusal(load, *args, **kwargs) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def dit_tensors() -> dict[str, torch.Tensor]:
    return load_file(load_golden("hyvideo10").dit)


def write(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, folder / "broken.safetensors")
    return folder / "broken.safetensors"


def test_lists_every_fault(folder: Path, dit_tensors: dict) -> None:
    tensors = dict(dit_tensors)
    removed = ["img_in.proj.weight", "time_in.mlp.2.bias", "single_blocks.1.linear1.weight"]
    for name in removed:
        del tensors[name]
    tensors |= {name: torch.zeros(1) for name in ("double_blocks.7000000000.x", "lora.alpha")}
    tensors["final_layer.linear.bias"] = torch.zeros(5)
    tensors["vector_in.out_layer.weight"] = torch.zeros(64, 63)
    message = refusal(load_dit, write(folder, tensors))
    assert "broken.safetensors" in message
    assert "3 missing" in message
    assert "2 unexpected" in message
    assert "2 mis-shaped" in message
    for name in (*removed, "lora.alpha", "double_blocks.7000000000.x"):
        assert name in message
    assert "final_layer.linear.bias is [5], should be [16]" in message
    assert "vector_in.out_layer.weight is [64, 63], should be [64, 64]" in message


@pytest.mark.parametrize("name", sorted(load_file(load_golden("hyvideo10").dit))[::6])
def test_any_missing_tensor_is_named(folder: Path, dit_tensors: dict, name: str) -> None:
    tensors = {key: tensor for key, tensor in dit_tensors.items() if key != name}
    message = refusal(load_dit, write(folder, tensors))
    assert "1 missing" in message
    assert name in message


def test_faults_are_named_as_in_a_split_file(folder: Path, dit_tensors: dict) -> None:
    tensors = split_for_tensor_parallel(dit_tensors)
    del tensors["double_blocks.1.txt_attn_k.weight"]
    tensors["single_blocks.0.linear1_mlp.bias"] = torch.zeros(64)
    message = refusal(load_dit, write(folder, tensors))
    assert "1 missing: double_blocks.1.txt_attn_k.weight" in message
    assert "single_blocks.0.linear1_mlp.bias is [64], should be [256]" in message


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        ("single_blocks.1.", "single_blocks.1.linear1.weight"),
        ("single_blocks.", "0 single-stream blocks"),
    ],
)
def test_blocks_missing(folder: Path, dit_tensors: dict, prefix: str, reason: str) -> None:
    tensors = {k: t for k, t in dit_tensors.items() if not k.startswith(prefix)}
    assert reason in refusal(load_dit, write(folder, tensors))


def test_values_that_are_not_finite(folder: Path, dit_tensors: dict) -> None:
    tensors = {name: tensor.clone() for name, tensor in dit_tensors.items()}
    tensors["time_in.mlp.0.bias"][3] = float("nan")
    tensors["double_blocks.1.img_attn_qkv.weight"][190, 63] = float("-inf")
    message = refusal(load_dit, write(folder, tensors))
    assert "2 tensors have values that are not finite" in message
    assert "time_in.mlp.0.bias" in message
    assert "double_blocks.1.img_attn_qkv.weight" in message


def test_values_that_the_dtype_cannot_hold(folder: Path, dit_tensors: dict) -> None:
    tensors = {name: tensor.float() for name, tensor in dit_tensors.items()}
    tensors["time_in.mlp.0.bias"][3] = 1e6
    path = write(folder, tensors)
    load_dit(path)
    assert "not finite as float16" in refusal(load_dit, path, dtype=torch.float16)


def test_dit_and_predictor_exchanged(vectors: Golden) -> None:
    assert "DisCa predictor, not a DiT" in refusal(load_dit, vectors.predictor)
    assert "DiT, not a predictor" in refusal(load_predictor, vectors.dit)


def test_predictor_of_another_model(vectors_10: Golden) -> None:
    other = load_dit(load_golden("hyvideo15").dit)
    message = refusal(load_predictor, vectors_10.predictor, other.config)
    assert "family is hunyuan-video-1.0 in the predictor, hunyuan-video-1.5" in message


def test_predictor_of_another_width(tmp_path: Path, vectors_10: Golden) -> None:
    config = load_dit(vectors_10.dit).config
    tensors = {
        name: tensor.repeat_interleave(2, 0) if tensor.ndim == 1 else _twice(tensor)
        for name, tensor in load_file(vectors_10.predictor).items()
    }
    message = refusal(load_predictor, write(tmp_path, tensors), config)
    assert "hidden is 128 in the predictor, 64 in the DiT" in message


def _twice(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.repeat_interleave(2, 0).repeat_interleave(2, 1)


@pytest.mark.parametrize(
    "names",
    [
        ["encoder.layers.0.weight", "head.bias"],
        ["double_blocks.0.img_attn.qkv.weight", "img_in.weight", "single_blocks.0.linear1.weight"],
        ["transformer_blocks.0.attn.to_q.weight", "x_embedder.weight"],
        ["latents", "text_states"],
    ],
)
def test_other_models(tmp_path: Path, names: list[str]) -> None:
    tensors = {name: torch.zeros(64, 64) for name in names}
    message = refusal(load_dit, write(tmp_path, tensors))
    assert "is not" in message or "missing" in message


def test_wrong_kind_of_numbers(folder: Path, dit_tensors: dict) -> None:
    tensors = dit_tensors | {"time_in.mlp.0.bias": torch.zeros(64, dtype=torch.int8)}
    assert "time_in.mlp.0.bias" in refusal(load_dit, write(folder, tensors))


@pytest.mark.parametrize(
    "content",
    [
        torch.zeros(3),
        [1, 2],
        {"module": {"time_in.mlp.0.weight": 3, "x": None}},
        {3: torch.zeros(2)},
        {"module": {}},
        {"x": torch.zeros(2).to_sparse()},
        OrderedDict(a=torch.zeros(1, device="meta")),
    ],
)
def test_pickles_that_hold_no_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "odd.pt")
    assert "odd.pt" in refusal(load_dit, tmp_path / "odd.pt")


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_pickled_code_is_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dit_tensors: dict
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"module": dit_tensors, "args": Evil()}, "evil.pt")
    message = refusal(load_dit, tmp_path / "evil.pt")
    assert "never executed" in message
    assert not Path("executed").exists()


def test_old_pickle_is_refused_with_a_hint(tmp_path: Path, dit_tensors: dict) -> None:
    torch.save(dit_tensors, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    message = refusal(load_dit, tmp_path / "old.pt")
    assert "before torch 1.6" in message
    assert "torch.save" in message


def zipped(name: str) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, b"content")
    return archive.getvalue()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"PK\x03\x04 nothing", "zip"),
        (b"<html>", "a web page"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"Access to this model is restricted", "it begins 'Access to this"),
        (b"\xfd7zXZ\0" + bytes(40), "a .xz archive"),
        (b"\x89PNG\r\n" + bytes(40), "a picture"),
        (b"\xff" * 100, "neither"),
        (b"GGUF\3\0\0\0" + bytes(16), "a GGUF file"),
        (b"\x1f\x8b\x08" + bytes(40), "a gzip archive"),
        (b"\x89HDF\r\n" + bytes(40), "an HDF5 file"),
        (b'{"error": "Unauthorized"}', "text, not weights; it begins '{"),
        (b"model.pt".ljust(257, b"\0") + b"ustar" + bytes(250), "a tar archive"),
        (zipped("weights.npy"), "torch.save did not write (it holds weights.npy)"),
    ],
)
def test_files_that_are_no_checkpoints(
    tmp_path: Path, content: bytes, reason: str, suffix: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    if suffix == ".safetensors" and reason == "neither":
        reason = "not a whole .safetensors file"
    assert reason in refusal(load_dit, path)


@pytest.mark.parametrize("name", ["model.onnx", "flax_model.msgpack"])
def test_formats_that_only_their_names_tell(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x08\x07" + bytes(300))
    assert f"not read are {name}" in refusal(load_dit, tmp_path / name)


@pytest.mark.parametrize("first", [b"<", b"\x1f\x8b", b'{"'])
def test_a_header_whose_length_looks_like_another_format(
    folder: Path, vectors_10: Golden, first: bytes
) -> None:
    content = vectors_10.dit.read_bytes()
    length = int.from_bytes(content[:8], "little")
    wanted = int.from_bytes(first, "little")
    while wanted < length:
        wanted += 256 ** len(first)
    padded = content[8 : 8 + length] + b" " * (wanted - length) + content[8 + length :]
    (folder / "x.safetensors").write_bytes(wanted.to_bytes(8, "little") + padded)
    load_dit(folder / "x.safetensors")


def test_a_file_that_claims_more_than_it_holds(tmp_path: Path, dit_tensors: dict) -> None:
    torch.save(
        dit_tensors | {"img_in.proj.weight": torch.zeros(1).expand(2**40)}, tmp_path / "x.pt"
    )
    assert "elements in" in refusal(load_dit, tmp_path / "x.pt")


def test_folder_with_several_checkpoints(vectors_10: Golden) -> None:
    message = refusal(load_dit, vectors_10.folder)
    assert "dit.safetensors, io.safetensors, predictor.safetensors" in message


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([], "holds no checkpoint"),
        (["model-Q4_K_M.gguf"], "not read are model-Q4_K_M.gguf (GGUF)"),
        (["__0_0.distcp", ".metadata"], "dcp_to_torch_save"),
        (["480p_t2v/x.safetensors", "720p_t2v/x.safetensors", "x"], "folders: 480p_t2v, 720p_t2v"),
        (["a/b/transformers/mp_rank_00_model_states.pt"], "its folders: a/b/transformers"),
        (["transformer/x-00002-of-00002.safetensors"], "x-00001-of-00002.safetensors"),
        (["x-00002-of-00002.fp16.safetensors"], "x-00001-of-00002.fp16.safetensors"),
        (["x-2-of-3.bin"], "x-1-of-3.bin, x-3-of-3.bin"),
        (["x.safetensors.part"], "x.safetensors.part (a download that has not ended)"),
        (["a.fp16.safetensors", "a.safetensors"], "name one of: a.fp16.safetensors, a.safetensors"),
    ],
)
def test_folders_that_are_not_of_one_checkpoint(
    tmp_path: Path, files: list[str], reason: str
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"\0")
    assert reason in refusal(load_dit, tmp_path)


@pytest.mark.parametrize("named", [".", "model.safetensors"])
def test_a_link_to_nowhere_is_said_to_be_that(tmp_path: Path, named: str) -> None:
    (tmp_path / "model.safetensors").symlink_to("../blobs/1234")
    assert "a link to ../blobs/1234, which is not there" in refusal(load_dit, tmp_path / named)


@pytest.mark.parametrize("inner", ["transformer", "transformers"])
def test_the_folder_of_a_pipeline(folder: Path, vectors_10: Golden, inner: str) -> None:
    (folder / inner).mkdir()
    (folder / "vae").mkdir()
    (folder / "vae" / "model.safetensors").write_bytes(b"never read")
    (folder / "model_index.json").write_text("{}")
    shutil.copy(vectors_10.dit, folder / inner / "model.safetensors")
    (folder / "config.json").rename(folder / inner / "config.json")
    load_dit(folder)


@pytest.mark.parametrize("file", ["states_fp8.pt", "states_fp8.safetensors"])
def test_a_path_that_is_not_utf8(folder: Path, dit_tensors: dict, file: str) -> None:
    """A map of scales beside it, too."""
    inside = folder / os.fsdecode(b"mod\xe8le")
    inside.mkdir()
    (folder / "config.json").rename(inside / "config.json")
    weights, scales = coded(dit_tensors)
    write_fp8(inside, weights, scales)
    if file.endswith(".safetensors"):
        save_file(weights, folder / file)
        (folder / file).rename(inside / file)
    load_dit(inside / file)


@pytest.mark.parametrize(("wide", "expected"), [(1, torch.bfloat16), (2, torch.float32)])
def test_the_dtype_of_most_values_is_taken_and_said(
    folder: Path, dit_tensors: dict, wide: int, expected: torch.dtype
) -> None:
    """Norms and biases are most tensors and hardly any values."""
    mixed = {n: t.float() if t.ndim <= wide else t for n, t in dit_tensors.items()}
    with pytest.warns(CheckpointWarning, match=r"9\d\.\d% of its values are"):
        dit = load_dit(write(folder, mixed))
    assert dit.dtype == expected


def test_a_predictor_of_meanflow_models_and_a_base_dit(vectors_10: Golden, tmp_path: Path) -> None:
    config = load_dit(vectors_10.dit).config
    base = replace(config, meanflow=False)
    shutil.copy(vectors_10.predictor, tmp_path / "predictor.safetensors")
    with pytest.warns(CheckpointWarning, match="this|the DiT is a cfg-distilled one"):
        load_predictor(tmp_path / "predictor.safetensors", base)
    for said, dit in ((False, base), (True, config)):
        (tmp_path / "config.json").write_text(json.dumps({"meanflow": said}))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_predictor(tmp_path / "predictor.safetensors", dit)


def test_official_pickle_wins_over_its_fp8_copy(folder: Path, dit_tensors: dict) -> None:
    torch.save({"module": dit_tensors}, folder / "mp_rank_00_model_states.pt")
    for copy in ("mp_rank_00_model_states_fp8.pt", "mp_rank_00_model_states_fp8_map.pt"):
        (folder / copy).write_bytes(b"not read")
    load_dit(folder)


def test_index_faults(folder: Path, dit_tensors: dict) -> None:
    index = write_sharded(folder, dit_tensors)
    good = json.loads(index.read_text())
    shards = sorted(set(good["weight_map"].values()))

    def with_map(**changes: object) -> str:
        index.write_text(json.dumps({"weight_map": good["weight_map"] | changes}))
        return refusal(load_dit, index)

    assert "name of a file beside it" in with_map(**{"img_in.proj.bias": "../../etc/passwd"})
    assert "name of a file beside it" in with_map(**{"img_in.proj.bias": 3})
    assert "1 tensors are missing from the shards" in with_map(extra=shards[0])
    assert "1 of 4 shards are not beside it" in with_map(extra="model-4.safetensors")
    index.write_text("[]")
    assert "JSON object" in refusal(load_dit, index)
    index.write_text("{")
    assert "is not JSON" in refusal(load_dit, index)


def test_shard_with_more_than_the_index_names(folder: Path, dit_tensors: dict) -> None:
    index = write_sharded(folder, dit_tensors | {"stray": torch.zeros(1)})
    content = json.loads(index.read_text())
    del content["weight_map"]["stray"]
    index.write_text(json.dumps(content))
    assert "1 unexpected: stray" in refusal(load_dit, index)


def test_unreadable_file(tmp_path: Path, vectors_10: Golden) -> None:
    path = tmp_path / "dit.safetensors"
    shutil.copy(vectors_10.dit, path)
    path.chmod(0)
    try:
        with path.open("rb"):
            pytest.skip("permissions do not bind this user")
    except PermissionError:
        assert "cannot be read" in refusal(load_dit, path)
