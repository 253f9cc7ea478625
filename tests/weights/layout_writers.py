"""Writes official-layout tensors the way people's files have them; for the loader's tests."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

Tensors = dict[str, Tensor]


def split_for_tensor_parallel(tensors: Tensors) -> Tensors:
    """q, k, v[, mlp] rows of merged projections apart, `linear2` under `fc`."""
    split: Tensors = {}
    for name, tensor in tensors.items():
        hidden = _hidden(tensors)
        if match := re.fullmatch(r"(double_blocks\.\d+\.(?:img|txt)_attn)_qkv\.(\w+)", name):
            for part, rows in zip("qkv", tensor.split(hidden), strict=True):
                split[f"{match[1]}_{part}.{match[2]}"] = rows.clone()
        elif match := re.fullmatch(r"(.*linear1)\.(\w+)", name):
            sizes = (hidden, hidden, hidden, 4 * hidden)
            for part, rows in zip(("q", "k", "v", "mlp"), tensor.split(sizes), strict=True):
                split[f"{match[1]}_{part}.{match[2]}"] = rows.clone()
        else:
            split[re.sub(r"linear2\.", "linear2.fc.", name)] = tensor
    return split


# As ComfyUI's own code renames the authors' modules.
COMFYUI = (
    (r"_attn_qkv\.", "_attn.qkv."),
    (r"_attn_proj\.", "_attn.proj."),
    (r"(img|txt)_attn_q_norm\.weight", r"\1_attn.norm.query_norm.scale"),
    (r"(img|txt)_attn_k_norm\.weight", r"\1_attn.norm.key_norm.scale"),
    (r"\.q_norm\.weight", ".norm.query_norm.scale"),
    (r"\.k_norm\.weight", ".norm.key_norm.scale"),
    (r"_mod\.linear\.", "_mod.lin."),
    (r"\.modulation\.linear\.", ".modulation.lin."),
    (r"mlp\.fc1\.", "mlp.0."),
    (r"mlp\.fc2\.", "mlp.2."),
    (r"(t_embedder|_in)\.mlp\.0\.", r"\1.in_layer."),
    (r"(t_embedder|_in)\.mlp\.2\.", r"\1.out_layer."),
    (r"c_embedder\.linear_1\.", "c_embedder.in_layer."),
    (r"c_embedder\.linear_2\.", "c_embedder.out_layer."),
)


def comfyui_name(name: str) -> str:
    for official, theirs in COMFYUI:
        name = re.sub(official, theirs, name)
    return name


def packed(tensors: Tensors) -> Tensors:
    """q, k and v of a double-stream block in one, as ComfyUI's files of 1.5 have them."""
    joined = dict(tensors)
    for name in tensors:
        if match := re.fullmatch(r"(double_blocks\.\d+\.(?:img|txt)_attn)_q\.(\w+)", name):
            parts = [joined.pop(f"{match[1]}_{part}.{match[2]}") for part in "qkv"]
            joined[f"{match[1]}_qkv.{match[2]}"] = torch.cat(parts)
    return joined


def _comfyui(folder: Path, tensors: Tensors) -> Path:
    """Write a pipeline's models in one file, the DiT under its prefix and by ComfyUI's names."""
    content = {f"model.diffusion_model.{comfyui_name(n)}": t for n, t in packed(tensors).items()}
    content |= {"vae.decoder.conv_in.weight": torch.ones(3), "text_encoders.x": torch.ones(2)}
    save_file(content, folder / "all.safetensors")
    return folder / "all.safetensors"


def _variant_shards(folder: Path, tensors: Tensors) -> Path:
    """Write the shards of a variant as diffusers does, with what macOS leaves beside them."""
    index = write_sharded(folder, tensors, "model.fp16")
    index.rename(folder / "model.safetensors.index.fp16.json")
    (folder / "._model.safetensors").write_bytes(b"\0")
    return folder


def _shards_without_index(folder: Path, tensors: Tensors) -> Path:
    write_sharded(folder, tensors).unlink()
    return folder


def _one_of_the_shards(folder: Path, tensors: Tensors) -> Path:
    write_sharded(folder, tensors).unlink()
    return folder / "model-00002-of-00003.safetensors"


def _hidden(tensors: Tensors) -> int:
    known = ("time_in.mlp.0.bias", "fusion_mlp.0.bias", "fusion_mlp_img.0.bias")
    return next(len(tensors[name]) for name in known if name in tensors)


def _pickle(*path: str, split: bool = False, prefix: str = "") -> Callable[[Path, Tensors], Path]:
    def write(folder: Path, tensors: Tensors) -> Path:
        content = split_for_tensor_parallel(tensors) if split else tensors
        content = {prefix + name: tensor for name, tensor in content.items()}
        for key in path:
            content = {key: content, "step": 3, "optimizer": {"lr": 1e-4}}
        torch.save(content, folder / "mp_rank_00_model_states.pt")
        return folder / "mp_rank_00_model_states.pt"

    return write


def _safetensors(prefix: str = "", split: bool = False) -> Callable[[Path, Tensors], Path]:
    def write(folder: Path, tensors: Tensors) -> Path:
        content = split_for_tensor_parallel(tensors) if split else tensors
        content = {prefix + name: tensor for name, tensor in content.items()}
        save_file(content, folder / "weights.safetensors")
        return folder / "weights.safetensors"

    return write


def _decoys(folder: Path, tensors: Tensors) -> Path:
    """`module` wins over `ema` and `model`."""
    zeros = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    content = {"model": zeros, "ema": zeros, "module": tensors}
    torch.save(content, folder / "decoys.pt")
    return folder / "decoys.pt"


def write_sharded(folder: Path, tensors: Tensors, stem: str = "model") -> Path:
    """Three shards and their index; returns the index."""
    names = sorted(tensors)
    weight_map = {}
    for number in range(3):
        shard = f"{stem}-{number + 1:05d}-of-00003.safetensors"
        save_file({name: tensors[name] for name in names[number::3]}, folder / shard)
        weight_map |= dict.fromkeys(names[number::3], shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    return index


def _sharded_folder(folder: Path, tensors: Tensors) -> Path:
    return write_sharded(folder, tensors).parent


def _sharded_pickles(folder: Path, tensors: Tensors) -> Path:
    names = sorted(tensors)
    for number in range(2):
        shard = {name: tensors[name] for name in names[number::2]}
        torch.save(shard, folder / f"pytorch_model-{number}.bin")
    weight_map = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(names)}
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return folder


WRITERS: dict[str, Callable[[Path, Tensors], Path]] = {
    "merged safetensors": _safetensors(),
    "split safetensors": _safetensors(split=True),
    "split pt under module": _pickle("module", split=True),
    "pt under ema": _pickle("ema"),
    "pt under model": _pickle("model"),
    "pt under state_dict, compiled": _pickle("state_dict", prefix="_orig_mod."),
    "bare pt": _pickle(),
    "packed qkv": lambda folder, tensors: _safetensors()(folder, packed(tensors)),
    "comfyui": _comfyui,
    "shards of a variant": _variant_shards,
    "shards without an index": _shards_without_index,
    "one of the shards": _one_of_the_shards,
    "pt under module, prefixed module.": _pickle("module", prefix="module."),
    "prefixed model.": _safetensors("model."),
    "module before ema and model": _decoys,
    "sharded, its index": write_sharded,
    "sharded, its folder": _sharded_folder,
    "sharded pickles": _sharded_pickles,
}
PREDICTOR_WRITERS = WRITERS | {
    "predictor.": _safetensors("predictor."),
    "module.": _safetensors("module."),
    "module.predictor.": _safetensors("module.predictor."),
    "split pt, module.predictor.": _pickle("module", split=True, prefix="module.predictor."),
}
