"""Flow-matching training of a base model on the procedural clips (arXiv 2210.02747, 2209.03003).

x_t = (1−t)·x_0 + t·ε, v = ε − x_0, loss |v_θ(x_t, t) − v|². A tenth of the prompts is emptied, so
that the model also learns the unconditional velocity that classifier-free guidance needs.

`python -m disca_rt.train.base FOLDER [--steps N] [--batch B] [--device cuda] [--start FILE]` trains
the embedded model, or resumes.

A run is a frozen `BaseConfig`. Every random number of step i comes from (seed, i), so a run that is
killed and resumed sees what the uninterrupted one would have seen.
"""

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..atomic import write_whole
from ..config import DiTConfig
from ..models.build import build_dit
from ..models.conditioning import Conditioning
from ..models.dit import DiT, StepInputs
from ..tiny.clips import render
from ..tiny.codec import PixelUnshuffleCodec
from ..tiny.config import TINY
from ..tiny.prompts import Scene, encode, sample_scene
from ..weights.inspect import inspect_checkpoint
from ..weights.load import load_dit
from ..weights.save import save_safetensors
from .grow import copy_into_deeper


@dataclass(frozen=True)
class BaseConfig:
    """A complete run. `lr` is AdamW's (embedders, modulation, head), `muon_lr` Muon's (blocks).

    `growth` lists (from step, single-stream blocks): the model starts shallow and is deepened on
    the way; the last depth is the model's own. Each depth warms up anew.
    """

    model: DiTConfig = field(default_factory=lambda: TINY)
    growth: tuple[tuple[int, int], ...] = ((0, 5), (6_000, 16))
    start: str | None = None  # a checkpoint of the first depth to start from, instead of noise
    steps: int = 14_000
    batch: int = 8
    lr: float = 2e-3
    muon_lr: float = 5e-3
    warmup_steps: int = 100
    # Linear to zero at the end. At a constant rate the loss stayed at 0.154 from step 4,500; from
    # the moving average of step 5,500, 3,200 falling steps brought it to 0.10.
    decay_steps: int = 8_000
    ema: float = 0.999
    drop_prompt: float = 0.1  # share of emptied prompts
    drop_word: float = 0.15  # share of prompts that leave the size out; the same for the background
    shift: float = 2.0  # t is shifted towards noise, where the layout is decided
    seed: int = 0
    device: str = "cpu"  # random numbers come from the CPU on any device
    checkpoint_every: int = 250
    log_every: int = 25

    def __post_init__(self) -> None:
        starts, depths = zip(*self.growth, strict=True)
        if starts[0] != 0 or list(starts) != sorted(set(starts)):
            raise ValueError(f"growth must start at step 0 and go forward, got {self.growth}")
        if depths[-1] != self.model.single or list(depths) != sorted(depths):
            raise ValueError(
                f"growth must end at the model's {self.model.single} single-stream blocks and "
                f"never shrink, got {self.growth}"
            )

    def stage(self, step: int) -> tuple[int, int]:
        """(from step, single-stream blocks) in force at `step`."""
        return max(stage for stage in self.growth if stage[0] <= step)


@dataclass
class TrainState:
    """What a checkpoint holds: weights, their moving average, optimizers."""

    model: DiT
    ema: dict[str, Tensor]
    optimizers: list[torch.optim.Optimizer]


def train_base(config: BaseConfig, out: Path) -> Path:
    """Run, or resume, training in the folder `out`; returns the path of the EMA weights.

    `out` gets `checkpoint.pt` (everything, replaced atomically), `loss.jsonl` and
    `dit.safetensors` (EMA weights, bf16, official key layout) with its `config.json`.
    """
    out.mkdir(parents=True, exist_ok=True)
    first, state = _resume(out, config)
    started, losses = time.perf_counter(), []
    for step in range(first, config.steps):
        if step and step == config.stage(step)[0]:
            state = _deepen(state, config, step)
        losses.append(_train_step(state, config, step, out))
        done = step + 1
        if done % config.log_every == 0:
            _log(out, done, losses, (time.perf_counter() - started) / (done - first))
            losses = []
        if done % config.checkpoint_every == 0 or done == config.steps:
            _save(out, config, done, state)
    return out / "dit.safetensors"


def _train_step(state: TrainState, config: BaseConfig, step: int, out: Path) -> float:
    """One optimizer step; returns the loss, raises FloatingPointError where it is not finite."""
    _set_lr(state.optimizers, config, step)
    loss = training_loss(state.model, config, step)
    if not math.isfinite(loss.item()):
        raise FloatingPointError(
            f"loss is {loss.item()} at step {step}; {out} keeps the last good checkpoint"
        )
    loss.backward()
    nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    for optimizer in state.optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    _update_ema(state, config, step)
    return loss.item()


def _fresh_state(config: BaseConfig, step: int) -> TrainState:
    """An initialised model of the depth in force at `step`."""
    _, single = config.stage(step)
    model = build_dit(replace(config.model, single=single), device="cpu")
    initialise(model, config.seed)
    if step == 0 and config.start is not None:
        model.load_state_dict(load_dit(config.start, dtype=torch.float32).state_dict())
    model.to(config.device).train().requires_grad_(True)
    ema = {name: p.detach().clone() for name, p in model.named_parameters()}
    return TrainState(model, ema, make_optimizers(model, config))


def _deepen(state: TrainState, config: BaseConfig, step: int) -> TrainState:
    """The next depth, from the moving average; the optimizers start anew."""
    state.model.load_state_dict(state.ema)
    deeper = _fresh_state(config, step)
    copy_into_deeper(state.model, deeper.model)
    ema = {name: p.detach().clone() for name, p in deeper.model.named_parameters()}
    return replace(deeper, ema=ema)


def training_loss(model: DiT, config: BaseConfig, step: int) -> Tensor:
    """The flow-matching loss of step `step`: a scalar."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    latents, conditioning = draw_batch(config, generator)
    u = torch.rand(config.batch, generator=generator)
    t = config.shift * u / (1 + (config.shift - 1) * u)
    noise = torch.randn(latents.shape, generator=generator)
    latents, noise, t = (tensor.to(model.device) for tensor in (latents, noise, t))
    x_t = torch.lerp(latents, noise, t[:, None, None, None, None])
    prepared = model.prepare(conditioning, latents.shape)
    velocity = model(x_t, StepInputs(1000 * t), prepared)
    return (velocity - (noise - latents)).square().mean()


def draw_batch(config: BaseConfig, generator: torch.Generator) -> tuple[Tensor, Conditioning]:
    """Fresh clips of scenes that are not held out, as latents, and their prompts, encoded."""
    scenes = [sample_scene(generator, held_out=False) for _ in range(config.batch)]
    latents = PixelUnshuffleCodec().encode(render(scenes, generator))
    chance = torch.rand(config.batch, 3, generator=generator).tolist()
    prompts = [
        "" if empty < config.drop_prompt else _leave_out(scene, size, background, config.drop_word)
        for scene, (empty, size, background) in zip(scenes, chance, strict=True)
    ]
    return latents, Conditioning(*encode(prompts))


def _leave_out(scene: Scene, size: float, background: float, share: float) -> str:
    first, *rest = scene.objects
    if size < share:
        first = replace(first, size=None)
    kept = None if background < share else scene.background
    return Scene((first, *rest), kept).prompt


def initialise(model: DiT, seed: int) -> None:
    """Truncated-normal linears; zero modulation and head: every block starts as the identity."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif "norm" in name:
            nn.init.ones_(parameter)
        elif _starts_at_zero(name):
            nn.init.zeros_(parameter)
        else:
            fan_in = parameter[0].numel()
            nn.init.trunc_normal_(parameter, std=fan_in**-0.5, generator=generator)


def _starts_at_zero(name: str) -> bool:
    return any(part in name for part in ("_mod.", "modulation", "final_layer"))


def make_optimizers(model: DiT, config: BaseConfig) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the blocks' matrices, AdamW for everything else."""
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        in_block = name.startswith(("double_blocks", "single_blocks"))
        is_matrix = in_block and parameter.ndim == 2 and not _starts_at_zero(name)
        (matrices if is_matrix else rest).append(parameter)
    muon = torch.optim.Muon(
        matrices, lr=config.muon_lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(rest, lr=config.lr, betas=(0.9, 0.99), weight_decay=0.0)
    return [muon, adamw]


def _set_lr(optimizers: list[torch.optim.Optimizer], config: BaseConfig, step: int) -> None:
    warm = min(1.0, (step - config.stage(step)[0] + 1) / config.warmup_steps)
    decay = min(1.0, (config.steps - step) / max(1, config.decay_steps))
    for optimizer, lr in zip(optimizers, (config.muon_lr, config.lr), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = lr * warm * decay


@torch.no_grad()
def _update_ema(state: TrainState, config: BaseConfig, step: int) -> None:
    age = step - config.stage(step)[0]
    weight = 1 - min(config.ema, (age + 1) / (age + 10))
    for name, parameter in state.model.named_parameters():
        state.ema[name].lerp_(parameter, weight)


def _save(out: Path, config: BaseConfig, done: int, state: TrainState) -> None:
    saved = {
        "done": done,
        "config": _described(config),
        "model": state.model.state_dict(),
        "ema": state.ema,
        "optimizers": [optimizer.state_dict() for optimizer in state.optimizers],
    }
    write_whole(out / "checkpoint.pt", lambda partial: torch.save(saved, partial))
    save_safetensors(out / "dit.safetensors", state.ema, torch.bfloat16, state.model.config)


def _resume(out: Path, config: BaseConfig) -> tuple[int, TrainState]:
    """The next step and the state to take it from."""
    path = out / "checkpoint.pt"
    if not path.exists():
        _forget_log_after(out / "loss.jsonl", 0)
        return 0, _fresh_state(config, 0)
    saved = torch.load(path, map_location=config.device, weights_only=True)
    _check_same_run(path, saved["config"], _described(config))
    done = saved["done"]
    state = _fresh_state(config, done - 1)
    state.model.load_state_dict(saved["model"])
    state.ema = saved["ema"]
    for optimizer, optimizer_state in zip(state.optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(optimizer_state)
    _forget_log_after(out / "loss.jsonl", done)
    return done, state


def _described(config: BaseConfig) -> dict:
    """What must not change when a run is resumed, as plain data."""
    free = ("steps", "device", "checkpoint_every", "log_every")
    fields = {name: value for name, value in asdict(config).items() if name not in free}
    return json.loads(json.dumps(fields))


def _check_same_run(path: Path, saved: dict, wanted: dict) -> None:
    for name, value in wanted.items():
        if saved[name] != value:
            raise ValueError(
                f"{path} was trained with {name} {saved[name]}, not {value}; "
                "resume with the same, or choose another folder"
            )


def _forget_log_after(log: Path, step: int) -> None:
    """Drop the lines of steps that a killed run logged but did not save."""
    if log.exists():
        lines = log.read_text().splitlines(keepends=True)
        log.write_text("".join(line for line in lines if json.loads(line)["step"] <= step))


def _log(out: Path, step: int, losses: list[float], seconds: float) -> None:
    line = {"step": step, "loss": sum(losses) / len(losses), "seconds_per_step": round(seconds, 4)}
    with (out / "loss.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=BaseConfig.steps)
    parser.add_argument("--batch", type=int, default=BaseConfig.batch)
    parser.add_argument("--device", default=BaseConfig.device)
    parser.add_argument("--lr", type=float, default=BaseConfig.lr)
    parser.add_argument("--muon-lr", type=float, default=BaseConfig.muon_lr)
    parser.add_argument("--seed", type=int, default=BaseConfig.seed)
    parser.add_argument("--start", help="weights to start from, at any depth of the growth")
    args = parser.parse_args()
    chosen = {n: getattr(args, n) for n in ("steps", "batch", "device", "lr", "muon_lr", "seed")}
    config = BaseConfig(**chosen)
    if args.start is not None:
        single = inspect_checkpoint(args.start).config.single
        deepened = ((0, single), *(stage for stage in config.growth if stage[1] > single))
        config = replace(config, start=args.start, growth=deepened)
    print(train_base(config, args.folder))


if __name__ == "__main__":
    main()
