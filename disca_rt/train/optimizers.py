"""Optimizers of a run: which parameter learns by which rule. Knows no stages."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .config import RunConfig

STARTS_AT_ZERO = ("_mod.", "modulation", "final_layer")  # parts of parameter names


def make_optimizers(
    module: nn.Module,
    run: RunConfig,
    lr: float | None = None,
    factors: Mapping[str, float] | None = None,
) -> list[torch.optim.Optimizer]:
    """Make AdamW, and where the run has a `muon_lr` Muon (Jordan et al. 2024) for blocks' matrices.

    `lr` None is the run's; `factors` multiply AdamW's rate of the children so named. Matrices that
    start at zero stay with AdamW: an orthogonalised update would move them as far as any other from
    the first step.
    """
    lr, factors = run.lr if lr is None else lr, factors or {}
    matrices = []
    groups: dict[float, dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if run.muon_lr is not None and _is_block_matrix(name, parameter):
            matrices.append(parameter)
            continue
        rate = lr * factors.get(name.partition(".")[0], 1.0)
        groups.setdefault(rate, {"params": [], "lr": rate})["params"].append(parameter)
    adamw = torch.optim.AdamW(list(groups.values()), betas=run.betas, weight_decay=run.weight_decay)
    if not matrices:
        return [_with_state(adamw)]
    muon = torch.optim.Muon(
        matrices,
        lr=run.muon_lr,
        weight_decay=run.muon_weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return [_with_state(muon), _with_state(adamw)]


def starts_at_zero(name: str) -> bool:
    """Tell if the parameter called `name` begins as zero, so that its block is the identity."""
    return any(part in name for part in STARTS_AT_ZERO)


def set_lr(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Set every learning rate to `factor` times what it was made with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]


def _with_state(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Give a new optimizer all its state at once, so that every checkpoint has the same tensors.

    PyTorch makes the state in the first step that has a gradient; a step of zeros changes nothing.
    """
    for group in optimizer.param_groups:
        group["initial_lr"], group["lr"] = group["lr"], 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for state in optimizer.state.values():
        if "step" in state:
            state["step"].zero_()
    set_lr([optimizer], 1.0)
    return optimizer


def _is_block_matrix(name: str, parameter: Tensor) -> bool:
    return "_blocks." in name and parameter.ndim == 2 and not starts_at_zero(name)
