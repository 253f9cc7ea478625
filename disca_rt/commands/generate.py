"""`disca-rt generate`: a prompt or a saved conditioning to video, or to latents."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import add_schedule_arguments, check_writable, video_size
from .ranks import add_rank_arguments, check_ranks, choose_attention, joined_ranks

if TYPE_CHECKING:
    from ..parallel.ranks import Ranks
    from ..runtime.runtime import Runtime, Sample
    from ..runtime.saved_conditioning import SavedConditioning

FPS = 5  # of the mp4, unless --fps says otherwise
MAX_FPS = 240
SEEDS = range(-(2**63), 2**63)  # what a generator takes
DEFAULT_OUT = Path("out") / "video.mp4"


def add_parser(subparsers: argparse._SubParsersAction, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="make a video from a prompt, or latents from a saved conditioning",
        description="Without --dit the embedded model runs; it knows prompts such as "
        "'a small red circle moving left on a black background'.",
    )
    parser.add_argument("prompt", nargs="?", help="what to show")
    models = parser.add_argument_group("models (files, folders or Hub references)")
    models.add_argument("--dit", help="checkpoint of the DiT")
    models.add_argument("--predictor", help="checkpoint of its DisCa predictor")
    models.add_argument("--dtype", help="float32 (default on a CPU), bfloat16, float16")
    models.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1")
    models.add_argument("--ops", default="reference", help="implementation of the ops")
    models.add_argument("--attention", default="sdpa", help="attention backend")
    inputs = parser.add_argument_group("input")
    inputs.add_argument("--conditioning", type=Path, help="saved conditioning (.safetensors)")
    inputs.add_argument("--size", type=video_size, help="WIDTHxHEIGHTxFRAMES of the video")
    inputs.add_argument("--negative-prompt", help="what to steer away from; nothing by default")
    inputs.add_argument("--guidance-scale", type=float, help="embedded or classifier-free scale")
    inputs.add_argument("--no-guidance", action="store_true", help="one conditional pass only")
    inputs.add_argument("--seed", type=int, default=0, help="of the initial noise")
    add_rank_arguments(parser, "generate")
    outputs = parser.add_argument_group("output")
    outputs.add_argument(
        "--out",
        type=Path,
        help="video (.mp4), default out/video.mp4; a contact sheet goes beside it",
    )
    outputs.add_argument("--latents-out", type=Path, help="final latents (.safetensors)")
    outputs.add_argument("--fps", type=int, help="frames per second of the mp4")
    add_schedule_arguments(parser)


def run(args: argparse.Namespace) -> None:
    if args.prompt is not None and args.out is None and args.latents_out is None:
        args.out = DEFAULT_OUT
    _check_arguments(args)
    with joined_ranks(args) as ranks:
        _generate(args, ranks)


def _generate(args: argparse.Namespace, ranks: "Ranks | None") -> None:
    """By this process, or its part of it; the first rank writes and reports."""
    runtime = _load_runtime(args, ranks)
    sample = _sample(args, runtime, ranks is None or ranks.is_first)
    if ranks is None or ranks.is_first:
        _report(sample, _write(args, sample))


def _check_arguments(args: argparse.Namespace) -> None:
    """Everything that can be refused before a model is loaded."""
    from ..cache.build import check_policy
    from ..schedule import Schedule, get_preset

    if not SEEDS.start <= args.seed < SEEDS.stop:
        raise ValueError(f"--seed must be from {SEEDS.start} to {SEEDS.stop - 1}, got {args.seed}")
    if (args.prompt is None) == (args.conditioning is None):
        raise ValueError("give either a prompt or --conditioning FILE")
    if args.conditioning is not None and args.negative_prompt is not None:
        raise ValueError(
            "--negative-prompt goes with a prompt; a saved conditioning holds negative_* tensors"
        )
    if args.policy is not None:
        check_policy(args.policy)
    if args.preset is not None:
        get_preset(args.preset)
    if args.step_list is not None:
        steps = max(args.step_list) + 1 if args.steps is None else args.steps
        Schedule(steps, shift=1.0, step_list=args.step_list)  # refuses an illegal list
    _check_outputs(args)
    check_ranks(args)
    if args.no_guidance and args.guidance_scale is not None:
        raise ValueError("give either --guidance-scale or --no-guidance")


def _check_outputs(args: argparse.Namespace) -> None:
    if args.out is None and args.latents_out is None:
        raise ValueError("nothing to write: give --out VIDEO.mp4 or --latents-out FILE.safetensors")
    if args.fps is not None and (not 1 <= args.fps <= MAX_FPS or args.out is None):
        raise ValueError(f"--fps must be from 1 to {MAX_FPS} and goes with --out, got {args.fps}")
    for flag, path, suffix in (
        ("--out", args.out, ".mp4"),
        ("--latents-out", args.latents_out, ".safetensors"),
    ):
        if path is not None:
            check_writable(flag, path, suffix)
    if args.out is not None:
        check_writable("the contact sheet of --out", _sheet(args.out), ".png")


def _load_runtime(args: argparse.Namespace, ranks: "Ranks | None") -> "Runtime":
    from ..runtime.runtime import Runtime
    from ..tiny.runtime import DIT, PREDICTOR, with_tiny_prompts
    from .devices import choose_device, choose_dtype

    device = choose_device(args.device) if ranks is None else ranks.device
    runtime = Runtime.load(
        DIT if args.dit is None else args.dit,
        PREDICTOR if args.dit is None and args.predictor is None else args.predictor,
        device=device,
        dtype=choose_dtype(args.dtype, device),
        ops=args.ops,
        attention=choose_attention(args, ranks, args.attention),
    )
    runtime = with_tiny_prompts(runtime)
    if args.out is not None and runtime.codec is None:
        raise ValueError(
            f"--out needs the VAE of {runtime.config.family}, which is not part of this version; "
            "give --latents-out FILE.safetensors"
        )
    if args.no_guidance and runtime.config.guidance_embed:
        raise ValueError("--no-guidance: this model embeds its guidance; give --guidance-scale 1")
    return runtime


def _sample(args: argparse.Namespace, runtime: "Runtime", is_shown: bool) -> "Sample":
    import torch

    from ..cache.build import build_policy
    from ..footprint import Need
    from ..schedule import get_preset
    from .out_of_memory import explained, runtime_need, show_size
    from .progress import StepProgress
    from .schedules import choose_schedule

    preset = None if args.preset is None else get_preset(args.preset)
    has_predicted = preset is not None and preset.full_steps < preset.steps
    wants_disca = runtime.predictor is not None or args.step_list is not None or has_predicted
    name = args.policy or ("disca" if wants_disca else "full")
    policy = build_policy(name, runtime.predictor, runtime.dit.ops)
    schedule = choose_schedule(args, runtime.config, name)
    inputs = _saved_inputs(args, runtime) if args.prompt is None else _prompt_inputs(args, runtime)
    shape = inputs["latent_shape"] or inputs["latents"].shape[1:]

    def need() -> Need:
        return runtime_need(runtime, policy.name, args.ops, inputs["conditioning"], shape)

    with (
        explained(need, runtime.dit.device, lambda size: show_size(runtime, size)),
        StepProgress(schedule.steps, is_shown) as progress,
    ):
        sample = runtime.sample(
            **inputs, schedule=schedule, policy=policy, seed=args.seed, on_step=progress.on_step
        )
    if not torch.isfinite(sample.latents).all():
        way_out = "" if runtime.dit.dtype == torch.float32 else "; try --dtype float32"
        raise ValueError(f"the result is not finite in {runtime.dit.dtype}{way_out}")
    return sample


def _prompt_inputs(args: argparse.Namespace, runtime: "Runtime") -> dict[str, Any]:
    """The arguments of `Runtime.sample` that a prompt determines."""
    from ..tiny.clips import FRAMES, HEIGHT, WIDTH
    from ..tiny.config import GUIDANCE_SCALE

    width, height, frames = args.size or (WIDTH, HEIGHT, FRAMES)
    scale = GUIDANCE_SCALE if args.guidance_scale is None else args.guidance_scale
    return runtime.prompt_inputs(
        [args.prompt],
        frames=frames,
        height=height,
        width=width,
        negative_prompt=args.negative_prompt or "",
        guidance_scale=None if args.no_guidance else scale,
    )


def _saved_inputs(args: argparse.Namespace, runtime: "Runtime") -> dict[str, Any]:
    """The arguments of `Runtime.sample` that a saved conditioning determines."""
    from ..runtime.saved_conditioning import load_conditioning

    saved = load_conditioning(args.conditioning)
    if saved.latents is not None and args.size is not None:
        raise ValueError(f"--size is settled by the latents in {args.conditioning}; leave it out")
    embeds = runtime.config.guidance_embed
    scale = args.guidance_scale
    if scale is None and embeds:
        scale = saved.guidance_scale
    return {
        "conditioning": saved.positive,
        "negative": None if args.no_guidance else saved.negative,
        "guidance_scale": scale,
        "latents": saved.latents,
        "latent_shape": None if saved.latents is not None else _latent_shape(args, runtime, saved),
    }


def _latent_shape(
    args: argparse.Namespace, runtime: "Runtime", saved: "SavedConditioning"
) -> tuple[int, int, int, int]:
    from ..sizes import SIZES

    if args.size is not None:
        width, height, frames = args.size
        codec = runtime.codec or SIZES[runtime.config.family]
        return runtime.config.in_channels, *codec.latent_shape(frames, height, width)[1:]
    if saved.positive.cond_latents is not None:
        return runtime.config.in_channels, *saved.positive.cond_latents.shape[2:]
    raise ValueError(
        f"conditioning {args.conditioning} has no latents; give the video's --size, "
        "such as 704x704x129"
    )


def _write(args: argparse.Namespace, sample: "Sample") -> list[Path]:
    """Write what was asked for, all of it or nothing; returns the files."""
    from safetensors.torch import save_file

    from ..atomic import write_all
    from ..media import to_frames, write_contact_sheet, write_mp4

    writers = {}
    if args.latents_out is not None:
        latents = {"latents": sample.latents.float().cpu().contiguous()}
        writers[args.latents_out] = lambda partial: save_file(latents, partial)
    if args.out is not None:
        frames, fps = to_frames(sample.video[0]), args.fps or FPS
        writers[args.out] = lambda partial: write_mp4(partial, frames, fps)
        writers[_sheet(args.out)] = lambda partial: write_contact_sheet(partial, frames)
    write_all(writers)
    return list(writers)


def _sheet(out: Path) -> Path:
    return out.with_suffix(".png")


def _report(sample: "Sample", written: list[Path]) -> None:
    from rich.console import Console
    from rich.table import Table

    total = sum(stage.time_s for stage in sample.times.values())
    table = Table("stage", "runs", "seconds", "share", title="where the time went")
    for name, stage in sample.times.items():
        share = f"{stage.time_s / total:.1%}"
        table.add_row(name, str(stage.count), f"{stage.time_s:.3f}", share)
    console = Console()
    console.print(table)
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True, highlight=False)
