"""Flags of a whole model's folder, the pipeline in it, and the request that its settings make."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .ranks import check_partition

if TYPE_CHECKING:
    from ..folders.settings import Settings
    from ..parallel.ranks import Ranks
    from ..pipeline.request import Request
    from ..pipeline.runtime import Runtime
    from ..schedule import Preset

# Flags that mean something with --model alone -> the option of `pipeline.load.Options`.
OPTIONS = {
    "variant": "variant",
    "match": "match",
    "keep_resident": "keep_resident",
    "encoder_device": "encoder_device",
    "encoder_dtype": "encoder_dtype",
    "vae_dtype": "vae_dtype",
    "tiles": "tiles",
}


def add_folder_arguments(group: argparse._ActionsContainer) -> None:
    """Add --model and the flags that go with it."""
    group.add_argument("--model", help="whole model: DiT, encoders and VAE, in any layout")
    group.add_argument("--variant", help="one of several DiTs in --model (a wrong name lists all)")
    group.add_argument(
        "--match", help="program to be equal to for one seed: disca (default), diffusers, official"
    )
    group.add_argument("--noise", help="whose initial noise: disca, diffusers, official")
    group.add_argument(
        "--keep-resident",
        action="store_true",
        help="keep encoders, DiT and VAE in memory, instead of each while its stage lasts",
    )
    group.add_argument("--encoder-device", help="device of the encoders; default: --device")
    group.add_argument("--encoder-dtype", help="dtype of the encoders; default: the files'")
    group.add_argument("--vae-dtype", help="dtype of the VAE; float16 on a GPU, float32 on a CPU")
    group.add_argument(
        "--tiles",
        help="tiles of the VAE: official (default), diffusers, none, or TILExSTRIDE in pixels and "
        "frames: 256x192,64x48",
    )


def check_folder_arguments(args: argparse.Namespace) -> None:
    """Raise ValueError for flags without --model, a bad picture, or rules that are not known."""
    from ..pipeline.images import read_image
    from ..pipeline.match import MATCHES
    from ..pipeline.noise import NOISE_RULES

    given = [name for name in OPTIONS if getattr(args, name)]
    if args.model is None and given:
        raise ValueError(f"--{given[0].replace('_', '-')} goes with --model FOLDER")
    for flag, known in (("match", MATCHES), ("noise", NOISE_RULES)):
        value = getattr(args, flag)
        if value is not None and value not in known:
            raise ValueError(f"--{flag} must be one of {', '.join(known)}, got {value!r}")
    if args.image is not None and args.prompt is None:
        raise ValueError("--image goes with a prompt")
    if args.image is not None and args.model is None:
        raise ValueError("--image goes with --model FOLDER: the embedded model takes no picture")
    if args.image is not None:
        read_image(args.image)


def load_folder(
    args: argparse.Namespace, ranks: "Ranks | None", built: dict[str, Any]
) -> "Runtime":
    """Find the parts of --model; each is loaded when its stage begins."""
    from ..pipeline.runtime import Runtime
    from .decode import choose_vae_dtype
    from .devices import choose_device, choose_dtype

    options = {option: getattr(args, flag) for flag, option in OPTIONS.items()}
    options["match"] = args.match or "disca"
    device = built["device"]
    if args.encoder_device is not None:
        device = options["encoder_device"] = choose_device(args.encoder_device, "--encoder-device")
    if args.encoder_dtype is not None:
        flag = "--encoder-dtype"
        options["encoder_dtype"] = choose_dtype(args.encoder_dtype, device, flag)
    options["tell"] = print if ranks is None or ranks.is_first else None
    options["vae_dtype"] = choose_vae_dtype(args.vae_dtype, built["device"])
    if ranks is not None:
        from ..vae.share import GroupShare

        options["share"] = GroupShare(ranks.group, built["device"])
    runtime = Runtime.load(args.model, args.predictor, dit=args.dit, **options, **built)
    if runtime.facts.folder is None and args.prompt is not None:
        from ..folders.find import find_model
        from ..folders.parts import NEEDS

        find_model(args.model, variant=args.variant).require(*NEEDS["prompts"])
    if args.no_guidance and runtime.config.guidance_embed:
        raise ValueError("--no-guidance: this model embeds its guidance; give --guidance-scale 1")
    return runtime


def default_of(runtime: "Runtime") -> "Preset":
    """The noise levels and the step list that the model of a runtime is sampled with."""
    from .schedules import default_schedule

    folder = runtime.facts.folder
    return default_schedule(runtime.config) if folder is None else folder.settings.schedule()


def folder_request(
    args: argparse.Namespace,
    runtime: "Runtime",
    ranks: "Ranks | None",
    make: "Callable[..., Request]",
    is_told: bool,
) -> "Request":
    """Request of a prompt for a whole model: flags over the settings of its variant."""
    from ..pipeline.defaults import default_size, scales

    settings = runtime.facts.folder.settings
    frames, height, width = default_size(runtime.facts, args.image)
    if args.size is not None:
        width, height, frames = args.size
    given = args.guidance_scale, args.classifier_free_scale
    request = make(
        prompts=[args.prompt],
        negative_prompt=args.negative_prompt or "",
        image=args.image,
        size=(frames, height, width),
        **scales(settings, *given, is_guided=not args.no_guidance),
    )
    told = _memory(args, runtime, ranks, request)
    if is_told:
        print(_told(args, request, settings), told, sep="\n", flush=True)
    return request


def _memory(
    args: argparse.Namespace, runtime: "Runtime", ranks: "Ranks | None", request: "Request"
) -> str:
    """Line that says what each stage takes; MemoryError names one that cannot fit."""
    from ..pipeline.fit import guidance_of
    from ..pipeline.stage_memory import StageMemory, denoise_need

    facts = runtime.facts
    shape = facts.sizes.latent_shape(*request.size)
    size = shape[1:]
    known = {
        "policy": runtime.resolved(request)[1],
        "ops": args.ops,
        "graphs": runtime.graphs is not None,
    }
    is_mixed = guidance_of(request, runtime.config).classifier_free is not None
    known |= {"passes": 1 + is_mixed, "ranks": 1 if ranks is None else ranks.size}
    need = denoise_need(facts.folder, facts.options, size, **known)
    if ranks is not None:  # by the most tokens, before the prompt's are known
        check_partition(args, ranks, runtime.config, shape, need.text)
    decodes = any(getattr(args, name, None) is not None for name in ("out", "frames_out"))
    decodes = decodes and not getattr(args, "preview", False)
    return StageMemory(facts.folder, facts.options, need, decodes and runtime.decodes).check()


def _told(args: argparse.Namespace, request: "Request", settings: "Settings") -> str:
    """Line that says what a sample is made with, and why."""
    from ..cache.policies import needs_step_list

    frames, height, width = request.size
    levels = request.schedule
    said = [f"{settings.variant} ({settings.reasons['variant']})", f"{width}x{height}x{frames}"]
    said.append(f"{levels.steps} steps")
    if args.sigmas is None and args.timesteps is None:
        said.append(f"shift {levels.shift if args.shift is None else args.shift:g}")
    said.append(f"policy {request.policy}")
    if levels.step_list is not None and needs_step_list(request.policy):
        said.append(f"full steps {','.join(map(str, levels.step_list))}")
    if request.guidance_scale is not None:
        said.append(f"guidance {request.guidance_scale:g}")
    if request.classifier_free_scale is not None:
        said.append(f"classifier-free guidance {request.classifier_free_scale:g}")
    said.append(f"seed {request.seed}")
    note = f"; {settings.note}" if settings.note else ""
    return f"sampling: {', '.join(said)}{note}"
