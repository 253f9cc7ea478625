"""A model of any size for the judge and the search: its flags, and the subject that they name."""

import argparse
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import given
from .samples import sample_flags, sample_requests
from .sampling import add_sampling_arguments, load_runtime

if TYPE_CHECKING:
    from ..cache_judge.forecast import Forecast
    from ..cache_judge.whole import Whole
    from ..pipeline.request import Request
    from ..pipeline.runtime import Runtime

WITH_MODEL = "only with --model or --dit"
FLAGS_OF_FACTS = "ops", "attention", "fp8", "vae_dtype", "tiles", "noise", "match"


def add_model_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Add the flags that generate has; `parser` resolves conflicts by the later one.

    Conditionings may be several; policies are the command's own, and so are ranks: there are none.
    """
    add_sampling_arguments(parser, command, has_ranks=False, when=WITH_MODEL)
    inputs = parser.add_argument_group("samples of --model or --dit, besides a prompt or --prompts")
    inputs.add_argument(
        "--conditioning",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="saved conditionings (.safetensors), a sample of each",
    )
    parser.set_defaults(policy=None)


def is_model_asked_for(args: argparse.Namespace) -> bool:
    """True where a model is named; ValueError for its flags without one."""
    if args.model is not None or args.dit is not None:
        return True
    for flag in flags_given(args, but=("device", "policy", "calibration")):
        raise ValueError(f"{flag} goes with --model or --dit; the embedded model has its settings")
    return False


def refuse_embedded_flags(args: argparse.Namespace, *names: str) -> None:
    """Raise ValueError for a flag among `names`, which are the embedded model's, beside a model."""
    for name in given(args, names):
        raise ValueError(f"--{name} is for the embedded model; leave it out")


def flags_given(args: argparse.Namespace, but: Collection[str]) -> Iterator[str]:
    """The flags of samples that are not what they are by default, but for those of some names."""
    parser = argparse.ArgumentParser(add_help=False)
    add_sampling_arguments(parser, "", has_ranks=False)
    for name, default in vars(parser.parse_args([])).items():
        if name not in but and getattr(args, name) != default:
            yield "a prompt" if name == "prompt" else f"--{name.replace('_', '-')}"
    if isinstance(args.prompts, Path):
        yield f"--prompts {args.prompts}, a file,"


def begin(args: argparse.Namespace, subject: "Whole", work: "Forecast") -> None:
    """Say what is begun, how long it will take by two steps, and what is kept on disk.

    A failure says from then on that what was measured is there.
    """
    args.kept = f"what was measured is in {args.out}; the same command goes on"
    if not work.samples:
        return
    print(f"{subject.title}, {len(subject.prompts)} samples of each policy: {work}", flush=True)
    seconds = subject.step_seconds()
    decodes = " and the decodes" * subject.decodes
    print(f"{_time(seconds)} a full step: about {_time(seconds * work.full_steps)}{decodes}")
    _check_room(subject.reference_bytes, args.out)


def _check_room(needed: int, out: Path) -> None:
    from ..units import byte_text

    there = next(each for each in (out.absolute(), *out.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise ValueError(
            f"uncached samples to compare with take {byte_text(needed)} in --out {out}, which has "
            f"{byte_text(free)}; give another --out, or fewer prompts"
        )
    print(f"uncached samples to compare with take {byte_text(needed)} in {out}", flush=True)


def _time(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s"


@contextmanager
def judged_model(args: argparse.Namespace, decodes: bool) -> "Iterator[tuple[Runtime, Whole]]":
    """The model of the flags, loaded, its prompts encoded before; traces go into --out."""
    from ..cache_judge.subject import UNCACHED
    from ..cache_judge.whole import Whole
    from ..parallel.ranks import is_launched
    from .devices import choose_device, choose_ops
    from .out_of_memory import explained_sample

    if is_launched():
        raise ValueError("the judge runs in one process; start it without torchrun")
    if isinstance(args.prompts, int):
        raise ValueError("--prompts must be a file of prompts, one a line, for this model")
    args.policy, args.ops = UNCACHED, choose_ops(args.ops, choose_device(args.device))
    checked = {"calibration": None, "out": args.out if decodes else None}
    flags = sample_flags(_with(args, **checked))
    runtime = load_runtime(_with(flags[0], calibration=args.calibration), None)
    requests = sample_requests(flags, runtime)
    _check_alike(requests)
    guard = partial(explained_sample, runtime, args.ops, is_told=False)
    facts = _facts(args, runtime, [each.prompt for each in flags])
    with runtime.keeping_models(), runtime.keeping("codec"):
        facts["calibration"] = _calibration(runtime, requests[0])
        given = runtime, requests, facts, args.out / "traces", decodes
        yield runtime, Whole(*given, guard, _explained_decode)


@contextmanager
def _explained_decode() -> Iterator[None]:
    """Turn running out of memory within, beside the DiT, into one line."""
    from ..errors import first_line
    from .out_of_memory import is_out_of_memory

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        told = f"stage decode, beside the DiT: {first_line(error)}; would help: --latents-only"
        raise MemoryError(told) from error


def _with(args: argparse.Namespace, **changed: Any) -> argparse.Namespace:
    return argparse.Namespace(**vars(args) | changed)


def _calibration(runtime: "Runtime", request: "Request") -> str | None:
    """A digest of the tables that policies take options from."""
    if runtime.calibration is None:
        return None
    found = runtime.calibration.fitting(runtime.subject(request))
    return found and found.digest


def _check_alike(requests: "Sequence[Request]") -> None:
    """Raise ValueError where saved conditionings are of several sizes, or scales."""
    from ..pipeline.fit import latent_shape

    def settings(request: "Request") -> tuple:
        scales = request.guidance_scale, request.classifier_free_scale
        return latent_shape(request), len(request.conditionings), scales

    for request in requests:
        if settings(request) != settings(requests[0]):
            raise ValueError(
                "conditionings must be of one size and guidance: latents, passes and scales are "
                f"{settings(requests[0])} and {settings(request)}; judge them one by one"
            )


def _facts(args: argparse.Namespace, runtime: "Runtime", texts: list[str | None]) -> dict[str, Any]:
    """All that samples depend on besides their levels, size and guidance, as JSON has it."""
    from ..weights.fingerprint import fingerprint
    from ..weights.hub import resolve

    folder = runtime.facts.folder
    if folder is not None:
        weights = {name: fingerprint([part.path]) for name, part in folder.parts.items()}
    else:
        named = {"dit": args.dit or args.model, "predictor": args.predictor}
        weights = {key: fingerprint([resolve(each)]) for key, each in named.items() if each}
    facts = {name: str(getattr(args, name)) for name in FLAGS_OF_FACTS}
    facts |= {"place": str(runtime.facts.place), "weights": weights, "seed": args.seed}
    facts |= {"negative_prompt": args.negative_prompt}
    if args.image is not None:
        facts["image"] = fingerprint([args.image])
    if args.conditioning is not None:
        return facts | {"conditioning": fingerprint(args.conditioning)}
    return facts | {"texts": sha256("\n".join(texts).encode()).hexdigest()[:16]}


def with_list(args: argparse.Namespace, runtime: "Runtime", policy: str) -> str:
    """A policy with the step list of the flags, or the model's own, where it follows one."""
    from ..cache.policies import needs_step_list, with_step_list
    from .folder import default_of
    from .schedules import choose_schedule

    if not needs_step_list(policy):
        return policy
    return with_step_list(policy, choose_schedule(args, default_of(runtime), policy).step_list)
