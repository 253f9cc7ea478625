"""Training loop, the only one: draw, loss, backward, clip, step, average, log, checkpoint.

A run resumes from the last checkpoint in its folder and then is the run that was never interrupted:
samples and random numbers come from positions, not from a history.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .checkpoint import TrainState, has_checkpoint, load_checkpoint, save_checkpoint
from .config import RunConfig
from .data import SampleReader, SampleSource, check_conditioning, make_reader, read_batch
from .distributed import World, average_gradients
from .draws import draw
from .latent_shards import LatentShards
from .loss_log import LossLog
from .optimizers import set_lr
from .run_file import RUN_NAME, check_same_run, describe_run, write_run
from .stage import Stage

# By what is exported; the rest are DiTs.
WEIGHTS_NAME = {"predictor": "predictor.safetensors", "cache": "gates.safetensors"}
DIT_NAME = "dit.safetensors"


class TrainEvent(NamedTuple):
    """News of a run after each step: `done` of `steps`, and the step's loss terms by name."""

    done: int
    steps: int
    terms: Mapping[str, float]
    samples_per_second: float
    seconds_left: float


def train(
    stage: Stage,
    config: Any,
    data: SampleSource,
    folder: Path,
    world: World,
    on_step: Callable[[TrainEvent], None] | None = None,
) -> Path:
    """Train `stage`, or go on with it, in `folder`; returns the path of the averaged weights.

    `stage` comes from `distributed.placed`; `config` is its complete config, whose `run` says how.
    It is written to `run.json` with what the data says of itself, and a folder with another run's
    checkpoint is refused. `folder` gets checkpoints, `loss.jsonl`, `loss.png` and the weights, as
    the stage writes them. Raises ValueError naming a sample that the model cannot learn
    from, FloatingPointError at a loss or a gradient that is not finite; the last checkpoint stays.
    """
    run: RunConfig = config.run
    _check_inputs(stage, data, run.rank_batch(world.size) // run.micro_batches(world.size))
    description = describe_run(config, data, stage.unconditional)
    if has_checkpoint(folder / "checkpoints"):
        check_same_run(folder / RUN_NAME, description, config)
    ema = {name: tensor.clone() for name, tensor in _weights(stage.trained[stage.exported])}
    state = TrainState(stage, stage.optimizers(), ema)
    load_checkpoint(folder / "checkpoints", state, world)
    if state.done > run.steps:
        raise ValueError(f"{folder} has {state.done} steps already, got {run.steps}")
    if world.is_first:
        write_run(folder / RUN_NAME, description)
    trainer = _Trainer(state, run, make_reader(data, run.seed), folder, world)
    if state.done == run.steps:
        trainer.export()
    while state.done < run.steps:
        event = trainer.step()
        if on_step is not None:
            on_step(event)
    return trainer.weights


def _check_inputs(stage: Stage, data: SampleSource, micro_batch: int) -> None:
    """Raise ValueError before anything is begun, where data or empty prompt do not fit."""
    if isinstance(data, LatentShards):
        data.check(stage.dit_config, micro_batch)
    if stage.unconditional is not None:
        try:
            check_conditioning(stage.unconditional, stage.dit_config)
        except ValueError as error:
            raise ValueError(f"the conditioning of the empty prompt: {error}") from error


class _Trainer:
    """A run between its first and its last step, as one rank sees it."""

    def __init__(
        self, state: TrainState, run: RunConfig, reader: SampleReader, folder: Path, world: World
    ) -> None:
        self.state, self.run, self.reader, self.world = state, run, reader, world
        self.folder = folder
        self.weights = folder / WEIGHTS_NAME.get(state.stage.exported, DIT_NAME)
        self.log = LossLog(folder, state.done) if world.is_first else None
        self.terms: dict[str, list[float]] = defaultdict(list)
        self.first, self.started = state.done, time.perf_counter()

    def step(self) -> TrainEvent:
        """Take one optimizer step; log, and write a checkpoint, where one is due."""
        state, run = self.state, self.run
        set_lr(state.optimizers, run.lr_factor(state.done))
        terms = self._backward()
        average_gradients(state.stage, self.world)
        with self.world.operation("optimizer step"):
            norms = {
                f"{name}'s gradient": nn.utils.clip_grad_norm_(module.parameters(), run.clip)
                for name, module in state.stage.trained.items()
            }
            self._check_finite(terms, {name: _whole(norm).item() for name, norm in norms.items()})
            for optimizer in state.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            _average(state.ema, state.stage.trained[state.stage.exported], run.ema, state.done)
        state.done += 1
        return self._report(terms)

    def _backward(self) -> dict[str, float]:
        """Add up the gradients of the step's mean loss; returns its terms, means over all ranks."""
        run, size = self.run, self.world.size
        count, share = run.micro_batches(size), run.rank_batch(size)
        group = self.world.rank // run.sequence_parallel
        first = self.state.done * run.batch + group * share
        summed: dict[str, Tensor] = {}
        for index in range(count):
            micro = share // count
            positions = range(first + index * micro, first + (index + 1) * micro)
            with self.world.operation("forward and backward"):
                batch = read_batch(self.reader, positions, self.state.stage.dit_config)
                draws = draw(run.seed, positions, batch.latents.shape[1:], run.batch)
                with self._precision():
                    loss = self.state.stage.loss(
                        batch.to(self.world.device), draws.to(self.world.device), self.state.done
                    )
                (loss.total / count).backward()
            for name, value in loss.terms.items():
                summed[name] = summed.get(name, 0) + value.float() / count
        means = self.world.mean(torch.stack(list(summed.values())))
        return dict(zip(summed, means.tolist(), strict=True))

    def _precision(self) -> AbstractContextManager:
        """Context of forwards: bf16 autocast in a world of one; FSDP gathers in bf16 itself."""
        if not self.run.bf16 or self.world.size > 1:
            return nullcontext()
        return torch.autocast(self.world.device.type, torch.bfloat16)

    def _check_finite(self, terms: Mapping[str, float], norms: Mapping[str, float]) -> None:
        for what, values in {"loss": terms, "gradient": norms}.items():
            if all(map(math.isfinite, values.values())):
                continue
            kept, begin = self.folder / "checkpoints", "there is no checkpoint yet; begin again"
            if has_checkpoint(kept):
                begin = f"{kept} keeps the last good checkpoint; begin again in another folder"
            first, size = self.state.done * self.run.batch, self.run.batch
            named = ", ".join(
                self.reader.name(place) for place in range(first, first + min(size, 4))
            )
            raise FloatingPointError(
                f"the {what} is not finite at step {self.state.done} ({dict(values)}), on "
                f"{named}{' and others' * (size > 4)}; {begin} "
                + ("with other samples" if self.state.done == 0 else "with a smaller lr")
            )

    def _report(self, terms: Mapping[str, float]) -> TrainEvent:
        done, run = self.state.done, self.run
        for name, value in terms.items():
            self.terms[name].append(value)
        rate = run.batch * (done - self.first) / (time.perf_counter() - self.started)
        if self.log is not None and (done % run.log_every == 0 or done == run.steps):
            means = {name: sum(values) / len(values) for name, values in self.terms.items()}
            self.log.add(done, means, rate)
            self.terms.clear()
        if done % run.checkpoint_every == 0 or done == run.steps:
            self.export()  # first, so that no checkpoint is without its weights
            save_checkpoint(self.folder / "checkpoints", self.state, self.world)
        return TrainEvent(done, run.steps, terms, rate, (run.steps - done) * run.batch / rate)

    def export(self) -> None:
        """Write the averaged weights and the curves; all ranks take part, one tensor at a time."""
        weights = {}
        with self.world.operation("gathering the weights"):
            for name, tensor in self.state.ema.items():
                whole = _whole(tensor)
                if self.world.is_first:
                    weights[name] = whole.to("cpu", self.state.stage.written_as)
        if self.log is not None:
            self.state.stage.write(self.weights, weights)
            self.log.draw()


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield weights by their official keys, sharded as they are; a parametrized one is computed."""
    for name, parameter in module.named_parameters():
        owner, parametrized, rest = name.partition(".parametrizations.")
        if parametrized:
            kind = rest.removesuffix(".original")
            name, parameter = f"{owner}.{kind}", getattr(module.get_submodule(owner), kind)
        yield name.replace("_checkpoint_wrapped_module.", ""), parameter.detach()


@torch.no_grad()
def _average(ema: dict[str, Tensor], module: nn.Module, decay: float, step: int) -> None:
    """Move the average towards the parameters; a young average forgets faster."""
    weight = 1 - min(decay, (step + 1) / (step + 10))
    for name, tensor in _weights(module):
        ema[name].lerp_(tensor, weight)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
