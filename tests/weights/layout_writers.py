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


def write_sharded(folder: Path, tensors: Tensors) -> Path:
    """Three shards and their index; returns the index."""
    names = sorted(tensors)
    weight_map = {}
    for number in range(3):
        shard = f"model-{number + 1:05d}-of-00003.safetensors"
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
    "bare pt": _pickle(),
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
