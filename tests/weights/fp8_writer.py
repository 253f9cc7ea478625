"""Golden checkpoints as official FP8 ones: block linears coded with a scale each, a map beside."""

from pathlib import Path

import torch

from disca_rt.models.dit import DiT
from disca_rt.models.linear import fp8_linears

FP8 = torch.float8_e4m3fn


def is_coded(name: str, tensor: torch.Tensor) -> bool:
    in_block = name.startswith(("double_blocks.", "single_blocks."))
    return in_block and name.endswith("weight") and tensor.ndim == 2


def coded(tensors: dict[str, torch.Tensor]) -> tuple[dict, dict]:
    """Write block linears as FP8 with a scale each, in bf16, like the authors' converter."""
    weights, scales = dict(tensors), {}
    for name, tensor in tensors.items():
        if is_coded(name, tensor):
            scale = (tensor.float().abs().max() / torch.finfo(FP8).max).to(torch.bfloat16)
            weights[name] = (tensor.float() / scale.float()).clamp(-448, 448).to(FP8)
            scales[name.removesuffix(".weight")] = scale
    return weights, scales


def weights_of(dit: DiT) -> dict[str, torch.Tensor]:
    """The weights by their names in a checkpoint, decoded."""
    linears = {f"{name}.weight": each.dense()[0] for name, each in fp8_linears(dit).items()}
    return dict(dit.named_parameters()) | linears


def write(folder: Path, tensors: dict, scales: dict | None) -> Path:
    torch.save({"module": tensors}, folder / "states_fp8.pt")
    if scales is not None:
        torch.save(scales, folder / "states_fp8_map.pt")
    return folder / "states_fp8.pt"
