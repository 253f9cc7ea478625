"""Optimizers by a run's settings: which parameter learns by which rule. Knows no stages."""

import torch
from torch import Tensor, nn

from .config import RunConfig

STARTS_AT_ZERO = ("_mod.", "modulation", "final_layer")  # parts of parameter names


def make_optimizers(
    module: nn.Module, run: RunConfig, lr: float | None = None
) -> list[torch.optim.Optimizer]:
    """AdamW, and with `muon_lr` Muon (Jordan et al. 2024) for the matrices of blocks.

    `lr` None is the run's. Matrices that start at zero stay with AdamW: an orthogonalised update
    would move them as far as any other from the first step.
    """
    matrices, rest = [], []
    for name, parameter in module.named_parameters():
        is_matrix = run.muon_lr is not None and _is_block_matrix(name, parameter)
        (matrices if is_matrix else rest).append(parameter)
    adamw = torch.optim.AdamW(rest, lr=lr or run.lr, betas=run.betas, weight_decay=run.weight_decay)
    if not matrices:
        return [adamw]
    muon = torch.optim.Muon(
        matrices, lr=run.muon_lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, adamw]


def starts_at_zero(name: str) -> bool:
    """Whether the parameter called `name` begins as zero, so that its block is the identity."""
    return any(part in name for part in STARTS_AT_ZERO)


def set_lr(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Every rate to `factor` times what it was made with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group.setdefault("initial_lr", group["lr"])


def _is_block_matrix(name: str, parameter: Tensor) -> bool:
    return "_blocks." in name and parameter.ndim == 2 and not starts_at_zero(name)
