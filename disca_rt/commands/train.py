"""`disca-rt train`: one stage of training, here or under torchrun; or what it would take."""

import argparse
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import check_writable, given, video_size
from .ranks import add_timeout_argument, as_flags, check_ranks

if TYPE_CHECKING:
    from ..conditioning import Conditioning
    from ..train.data import SampleSource
    from ..train.distributed import World

STAGES = "base", "cfg", "meanflow", "predictor", "cache"
METHODS = "l2c", "harmonica", "lazydit", "blockdance-ada", "block-caching", "fastcache"
OWN_FLAGS = "restriction", "derivative", "sampling_steps", "shift", "guidance"
OWN_FLAGS += "l1", "rho", "lambda_q", "delta"  # prices and bounds of a cache
RUN_FLAGS = (
    "steps",
    "batch",
    "micro_batch",
    "lr",
    "muon_lr",
    "decay_steps",
    "seed",
    "compile",
    "ops",
    "sequence_parallel",
    "checkpoint_every",
)
DRY_RUN_FLAGS = {"ranks": 8, "size": (704, 704, 129), "text_tokens": 256}
TINY_FLAGS = {"ranks": 1, "size": (32, 24, 5), "text_tokens": 16}  # of the embedded model's presets
DRY_RUN_MODELS = {
    "base": "hunyuan-video",
    "cfg": "hunyuan-video-cfgdistill",
    "meanflow": "hunyuan-video-meanflow",
    "predictor": "hunyuan-video-meanflow",
    "cache": "hunyuan-video-meanflow",
}


def add_parser(subparsers: argparse._SubParsersAction, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="train a base model, distil it, or make its predictor or gates of a cache",
        description="base: flow matching. cfg: classifier-free guidance into one pass. meanflow: "
        "Restricted MeanFlow. predictor: DisCa. Each begins from the one before (--from). cache: "
        "gates, heads, maps or a network of a cache method (--method), for any model. The same "
        "flags again resume a run; under torchrun it is sharded over the ranks.",
    )
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument(
        "--preset", default="tiny", help="tiny (default), or hunyuan-video (13B; not base)"
    )
    parser.add_argument(
        "--from",
        dest="source",
        help="start of base, teacher of cfg and meanflow, DiT of predictor and cache",
    )
    parser.add_argument("--method", choices=METHODS, help="what is learned (cache)")
    parser.add_argument("--out", type=Path, help="folder of the run: weights, checkpoints, losses")
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, help="folder of pre-encoded shards (.safetensors)")
    data.add_argument(
        "--unconditional",
        type=Path,
        help="saved conditioning of the empty prompt (base, cfg, cache)",
    )
    settings = parser.add_argument_group("settings (default: the preset's)")
    settings.add_argument("--steps", type=int, help="optimizer steps")
    settings.add_argument("--batch", type=int, help="samples per step, over all ranks")
    settings.add_argument("--micro-batch", type=int, help="samples per forward and rank")
    settings.add_argument("--lr", type=float, help="AdamW's rate")
    settings.add_argument("--muon-lr", type=float, help="Muon's rate, for the blocks' matrices")
    settings.add_argument("--decay-steps", type=int, help="last steps, in which the rates fall")
    settings.add_argument(
        "--compile", action="store_true", default=None, help="the blocks, by torch.compile"
    )
    settings.add_argument("--ops", help="implementation of the ops: reference, or triton")
    settings.add_argument(
        "--sequence-parallel", type=int, help="ranks that share a sample's tokens; default 1"
    )
    settings.add_argument("--checkpoint-every", type=int, help="steps between two checkpoints")
    add_timeout_argument(settings, "1800")
    settings.add_argument("--seed", type=int, help="of weights, samples, noise, t and r")
    settings.add_argument("--restriction", type=float, help="R of Restricted MeanFlow; 1: MeanFlow")
    settings.add_argument("--derivative", help="jvp, or finite-difference (meanflow)")
    settings.add_argument("--no-gan", action="store_true", help="squared error only (predictor)")
    settings.add_argument("--sampling-steps", type=int, help="of the sampler (cache)")
    settings.add_argument("--shift", type=float, help="of the sampler's time (all but cfg)")
    settings.add_argument("--guidance", type=float, help="scale of the sampler (cache)")
    settings.add_argument("--l1", type=float, help="weight of the gates' sum (l2c, harmonica)")
    settings.add_argument("--rho", type=float, help="weight of the mean score (lazydit)")
    settings.add_argument(
        "--lambda-q", type=float, help="weight of a sample's quality (blockdance-ada)"
    )
    settings.add_argument(
        "--delta", type=float, help="of the policy, whose replaced blocks learn (block-caching)"
    )
    settings.add_argument(
        "--calibration",
        type=Path,
        help="the calibration that has the policy's curves (block-caching), or maps to start from "
        "(fastcache)",
    )
    settings.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1")
    dry = parser.add_argument_group("dry run")
    dry.add_argument("--dry-run", action="store_true", help="print memory per rank and FLOPs only")
    dry.add_argument("--ranks", type=int, help="ranks to count for; default 8, of tiny presets 1")
    dry.add_argument(
        "--size", type=video_size, help="of the videos; default 704x704x129, or 32x24x5"
    )
    dry.add_argument("--text-tokens", type=int, help="valid text tokens; default 256")


def interrupted(args: argparse.Namespace) -> str:
    """Tell what is left of a run that was interrupted."""
    from ..train.checkpoint import has_checkpoint

    if args.dry_run or args.out is None:
        return "nothing was written"
    if not has_checkpoint(args.out / "checkpoints"):
        return "there is no checkpoint yet"
    return "the same command resumes from the last checkpoint"


def run(args: argparse.Namespace) -> None:
    if args.dry_run:
        _dry_run(args)
        return
    for name in given(args, DRY_RUN_FLAGS):
        raise ValueError(f"--{name.replace('_', '-')} is of a dry run; add --dry-run")
    from ..train.build import build_stage
    from ..train.distributed import TIMEOUT, attention_over, joined_world, placed
    from ..train.loss_log import LOG_NAMES
    from ..train.run_file import RUN_NAME
    from ..train.trainer import DIT_NAME, WEIGHTS_NAME, train
    from .devices import choose_device

    if args.out is None:
        raise ValueError("give the folder of the run with --out")
    config = _config(args, args.source)
    for name in (RUN_NAME, *LOG_NAMES, WEIGHTS_NAME.get(args.stage, DIT_NAME)):
        check_writable("--out", args.out / name, Path(name).suffix)
    check_ranks(args, ["timeout"])
    data, unconditional = _data(args, config.run.seed)
    timeout = TIMEOUT if args.timeout is None else timedelta(seconds=args.timeout)
    device = choose_device(args.device)
    with joined_world(device, timeout, as_flags(args)) as world, _Progress(world) as progress:
        attention = attention_over(config.run, world)
        build = partial(build_stage, config, unconditional, attention, world.device)
        stage = placed(build, config.run, world)
        written = train(stage, config, data, args.out, world, progress.on_step)
    if world.is_first:
        print(f"wrote {written}")


def _config(args: argparse.Namespace, source: str | None) -> Any:
    """Choose the preset and apply the flags to it; ValueError names a flag that it cannot take."""
    from ..train.presets import training_config

    config = training_config(_stage(args), args.preset, source)
    own = given(args, OWN_FLAGS)
    if args.no_gan:
        own["adversarial"] = False
    for name in own:
        if not hasattr(config, name):
            flag = "--no-gan" if name == "adversarial" else f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag} is nothing that stage {_stage(args)} has")
    config = replace(config, run=replace(config.run, **given(args, RUN_FLAGS)), **own)
    return config if args.calibration is None else _with_calibration(config, args)


def _with_calibration(config: Any, args: argparse.Namespace) -> Any:
    """Take what a stage begins with; ValueError where the calibration is of another sampler."""
    from ..cache.calibration import Subject
    from ..calibration.file import read_calibration
    from ..schedule import shifted

    if hasattr(config, "calibration"):
        return replace(config, calibration=str(args.calibration))
    if not hasattr(config, "curves"):
        raise ValueError(f"--calibration is nothing that stage {_stage(args)} has")
    found = read_calibration(args.calibration)
    model, scale = found.subject.model, config.guidance
    scales = (scale, None) if model.guidance_embed else (None, scale)
    sigmas = shifted(config.sampling_steps, config.shift).sigmas
    found.fitting(Subject(model, sigmas=sigmas, scales=scales))
    curves = found.table("block-caching").get("curves", ())
    return replace(config, curves=curves)


def _stage(args: argparse.Namespace) -> str:
    """The stage's name among the presets: that of cache has its method in it."""
    if args.stage != "cache":
        if args.method is not None:
            raise ValueError(f"--method is nothing that stage {args.stage} has")
        return args.stage
    if args.method is None:
        raise ValueError(f"stage cache needs --method, one of {', '.join(METHODS)}")
    return f"cache {args.method}"


def _data(args: argparse.Namespace, seed: int) -> tuple["SampleSource", "Conditioning | None"]:
    """Open the shards in --data; without it, draw clips, for the embedded model only.

    Returns the samples, and the empty prompt's conditioning where it is known.
    """
    from ..pipeline.saved_conditioning import load_conditioning
    from ..tiny.training_clips import TrainingClips, unconditional
    from ..train.latent_shards import LatentShards

    if args.unconditional is not None and args.stage not in ("base", "cfg", "cache"):
        raise ValueError(f"--unconditional is nothing that stage {args.stage} has")
    is_tiny = args.preset.startswith("tiny")
    if args.data is None and not is_tiny:
        raise ValueError(f"preset {args.preset} needs --data FOLDER with pre-encoded shards")
    empty = None
    if args.unconditional:
        empty = load_conditioning(args.unconditional).positive.without_padding_values()
    if args.data is not None:
        return LatentShards(args.data), empty
    drawn = TrainingClips(seed=seed, single_frames=args.preset == "tiny-images")
    return drawn, empty or unconditional()


def _dry_run(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..config import get_model_config
    from ..tiny.codec import PixelUnshuffleCodec
    from ..tiny.config import TINY
    from ..train.dry_run import estimate
    from ..vae.sizes import SIZES

    is_tiny = args.preset.startswith("tiny")
    flags = DRY_RUN_FLAGS | (TINY_FLAGS if is_tiny else {}) | given(args, DRY_RUN_FLAGS)
    ranks, (width, height, frames) = flags["ranks"], flags["size"]
    if ranks < 1:
        raise ValueError(f"--ranks must be at least 1, got {ranks}")
    config = _config(args, args.source or "(not read in a dry run)")
    dit = get_model_config(DRY_RUN_MODELS[args.stage])
    sizes = SIZES[dit.family]
    if is_tiny:
        dit = replace(TINY, guidance_embed=dit.guidance_embed, meanflow=dit.meanflow)
        sizes = PixelUnshuffleCodec()
    latent_shape = sizes.latent_shape(frames, height, width)
    needed = estimate(config, dit, latent_shape, flags["text_tokens"], ranks)
    table = Table("memory per rank", "GB", title=f"{args.stage}, {ranks} ranks")
    for name, size in needed.memory.items():
        table.add_row(name, f"{size / 1e9:,.2f}")
    table.add_row("total", f"{sum(needed.memory.values()) / 1e9:,.2f}", style="bold")
    console = Console()
    console.print(table)
    console.print(
        f"{needed.tokens:,} tokens per sample; a step of {config.run.batch} samples takes "
        f"{needed.flops / 1e15:,.3f} PFLOP, {needed.flops / 1e15 / ranks:,.3f} per rank",
        highlight=False,
    )


class _Progress:
    """Step, loss, throughput and time left on stderr: a bar on a terminal, lines elsewhere."""

    EVERY = 50  # steps between two lines

    def __init__(self, world: "World") -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._console = Console(stderr=True, quiet=not world.is_first)
        self._bar = Progress(
            console=self._console,
            transient=True,
            disable=not (self._console.is_terminal and world.is_first),
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def on_step(self, event: Any) -> None:
        self._bar.start()
        loss, rate = event.terms["loss"], event.samples_per_second
        text = f"step {event.done}/{event.steps}: loss {loss:.4f}, {rate:.1f} samples/s"
        self._bar.update(self._task, completed=event.done, total=event.steps, description=text)
        if not self._console.is_terminal and event.done % self.EVERY == 0:
            left = timedelta(seconds=round(event.seconds_left))
            self._console.print(f"{text}, {left} left", highlight=False)
