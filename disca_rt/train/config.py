"""Settings of every training run, whatever it learns: frozen data, written beside the run."""

from dataclasses import dataclass

import torch

from ..kernels.ops import check_ops

AT_LEAST = {
    **dict.fromkeys(("steps", "batch", "micro_batch", "sequence_parallel"), 1),
    **dict.fromkeys(("checkpoint_every", "log_every"), 1),
    **dict.fromkeys(("decay_steps", "warmup_steps"), 0),
}


@dataclass(frozen=True)
class RunConfig:
    """Settings of a run's optimisation, randomness and bookkeeping; ValueError for illegal ones.

    `batch` counts samples over all ranks and accumulated micro-batches: changing the number of
    ranks, how many share a sample, or `micro_batch` changes no sample, no noise and no loss.
    """

    steps: int
    batch: int
    lr: float
    micro_batch: int | None = None  # samples per forward and rank; None: a rank's share at once
    muon_lr: float | None = None  # Muon for the blocks' matrices; None: AdamW for everything
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    muon_weight_decay: float = 0.01
    warmup_steps: int = 100
    decay_steps: int = 0  # the last ones, in which the rates fall linearly to zero
    clip: float = 1.0  # largest norm of a gradient
    ema: float = 0.999  # of the weights that are written
    seed: int = 0
    bf16: bool = False  # compute in bf16; weights, their gradients and optimizers stay fp32
    activation_checkpointing: bool = False  # keep the inputs of blocks only, recompute the rest
    compile: bool = False  # the blocks, by torch.compile
    ops: str = "reference"  # of all models: a key of `kernels.ops.IMPLEMENTATIONS`
    sequence_parallel: int = 1  # ranks that share a sample's tokens
    checkpoint_every: int = 250
    log_every: int = 25

    def __post_init__(self) -> None:
        for name, least in AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.checkpoint_every % self.log_every:
            raise ValueError(
                f"checkpoint_every must be a multiple of log_every, {self.log_every}, so that no "
                f"line of the log is lost with an interruption; got {self.checkpoint_every}"
            )
        check_ops(self.ops)
        if self.compile and self.sequence_parallel > 1:
            raise ValueError("compile does not go with sequence_parallel; leave out one")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2^63 - 1, got {self.seed}")
        for name in ("lr", "muon_lr", "clip"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be from 0 to below 1, got {self.ema}")

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the run's forward and backward; weights stay fp32."""
        return torch.bfloat16 if self.bf16 else torch.float32

    def rank_batch(self, world_size: int) -> int:
        """Count the samples of a step on each rank; ValueError where they do not divide evenly."""
        if world_size % self.sequence_parallel:
            raise ValueError(
                f"sequence_parallel must divide the {world_size} ranks, "
                f"got {self.sequence_parallel}"
            )
        groups = world_size // self.sequence_parallel
        if self.batch % groups:
            whose = "ranks" if self.sequence_parallel == 1 else "groups of ranks"
            low = self.batch // groups * groups
            raise ValueError(
                f"batch must be a multiple of the {groups} {whose}, got {self.batch}; nearest are "
                f"{low} and {low + groups}"
            )
        return self.batch // groups

    def micro_batches(self, world_size: int) -> int:
        """Count the forwards of a step on each rank."""
        share = self.rank_batch(world_size)
        micro = share if self.micro_batch is None else self.micro_batch
        if share % micro:
            raise ValueError(
                f"micro_batch must divide a rank's share of {share} samples, got {micro}"
            )
        return share // micro

    def lr_factor(self, step: int) -> float:
        """Factor of the learning rates at `step`, 0 to 1: linear warm-up, linear decay to zero."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        decay = min(1.0, (self.steps - step) / max(1, self.decay_steps))
        return warm * decay


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless `value`, the setting called `name`, is a positive finite number."""
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a positive number, got {value}")


def check_share(name: str, value: float) -> None:
    """Raise ValueError unless `value`, the setting called `name`, is above 0 and at most 1."""
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be above 0 and at most 1, got {value}")
