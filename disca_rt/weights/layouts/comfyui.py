"""The names that ComfyUI gives the authors' modules inside, and so in the files it saves."""

import re
from collections.abc import Iterable

RENAMES: tuple[tuple[str, str], ...] = (
    (r"_attn\.qkv\.", "_attn_qkv."),
    (r"_attn\.proj\.", "_attn_proj."),
    (r"_attn\.norm\.query_norm\.(scale|weight)$", "_attn_q_norm.weight"),
    (r"_attn\.norm\.key_norm\.(scale|weight)$", "_attn_k_norm.weight"),
    (r"\.norm\.query_norm\.(scale|weight)$", ".q_norm.weight"),
    (r"\.norm\.key_norm\.(scale|weight)$", ".k_norm.weight"),
    (r"_mod\.lin\.", "_mod.linear."),
    (r"\.modulation\.lin\.", ".modulation.linear."),
    (r"((?:img|txt)_mlp|refiner\.blocks\.\d+\.mlp)\.0\.", r"\1.fc1."),
    (r"((?:img|txt)_mlp|refiner\.blocks\.\d+\.mlp)\.2\.", r"\1.fc2."),
    (r"(time_in|time_r_in|guidance_in|t_embedder)\.in_layer\.", r"\1.mlp.0."),
    (r"(time_in|time_r_in|guidance_in|t_embedder)\.out_layer\.", r"\1.mlp.2."),
    (r"c_embedder\.in_layer\.", "c_embedder.linear_1."),
    (r"c_embedder\.out_layer\.", "c_embedder.linear_2."),
)
_ITS_OWN = re.compile(
    r"blocks\.\d+\.(\w+_attn\.|\w+_mod\.lin\.|modulation\.lin\.|norm\.query_norm)"
)


def is_comfyui(names: Iterable[str]) -> bool:
    """Tell whether some of a file's names are ComfyUI's own."""
    return any(_ITS_OWN.search(name) for name in names)


def official_name(name: str) -> str:
    """The authors' name of a tensor that ComfyUI calls `name`."""
    for pattern, official in RENAMES:
        name = re.sub(pattern, official, name)
    return name
