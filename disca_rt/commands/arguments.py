"""Arguments that several subcommands share, and their checks; each error is one line."""

import argparse
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import atomic

BREAKS = "\t\n\r"  # control characters that are white space
OPS_HELP = (
    "triton, fused kernels, the default on a GPU; native, loops in C++, the default on a CPU; "
    "reference, PyTorch's operators"
)
ATTENTION_HELP = "attention backend (a wrong name lists all); default auto: the fastest tuned"


def items(text: str) -> list[str]:
    """Split "0,2,5", "0, 2, 5", "0 2 5", "0;2;5", "[0, 2, 5]" or "(0,2,5)" into its items."""
    return re.findall(r"[^\s,;]+", text.strip("[](){}'\" "))


def step_list(text: str) -> tuple[int, ...]:
    """Read step indices, as `items` splits them."""
    if not (read := items(text)) or not all(re.fullmatch("-?[0-9]+", each) for each in read):
        raise argparse.ArgumentTypeError(
            f"must be step indices with commas, such as 0,2,5, got {text!r}"
        )
    return tuple(map(int, read))


def plain_text(text: str) -> str:
    """Read a text; one with control characters, other than white space, is refused."""
    for place, letter in enumerate(text):
        if unicodedata.category(letter) == "Cc" and letter not in BREAKS:
            raise argparse.ArgumentTypeError(
                f"it has the control character U+{ord(letter):04X} at place {place}, got {text!r}; "
                "take it out"
            )
    return text


def prompt(text: str) -> str:
    """Read a prompt; one of ASCII without letters is refused: it was meant for a flag before it."""
    if not any(letter.isprintable() and not letter.isspace() for letter in text):
        raise argparse.ArgumentTypeError(
            f"the prompt is empty, got {text!r}; say what to show: 'a cat walks on the grass'"
        )
    if text.isascii() and not re.search("[a-zA-Z]", text):
        raise argparse.ArgumentTypeError(
            f"the prompt has no words, got {text!r}; a flag takes one value, "
            "and lists have commas: --step-list 0,2,5"
        )
    return plain_text(text)


def numbers(text: str) -> tuple[float, ...]:
    """Read numbers, as `items` splits them."""
    try:
        return tuple(map(float, items(text)))
    except ValueError as error:
        message = f"must be numbers such as 1,0.9,0.5, got {text!r}"
        raise argparse.ArgumentTypeError(message) from error


def video_size(text: str) -> tuple[int, int, int]:
    """Read "704x704x129", WIDTHxHEIGHTxFRAMES, as (width, height, frames)."""
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(re.fullmatch("[0-9]{1,5}", part) for part in parts):
        raise argparse.ArgumentTypeError(
            f"must be WIDTHxHEIGHTxFRAMES such as 704x704x129, got {text!r}"
        )
    width, height, frames = map(int, parts)
    return width, height, frames


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --model, --size and --text-tokens, for a forward that is counted, not run."""
    parser.add_argument(
        "--model", default="hunyuan-video-meanflow", help="a model (an unknown name lists all)"
    )
    parser.add_argument(
        "--size",
        type=video_size,
        help="WIDTHxHEIGHTxFRAMES; default 704x704x129, of --model tiny 32x24x5",
    )
    parser.add_argument(
        "--text-tokens", type=int, help="valid text tokens; default 256, of --model tiny 16"
    )


def add_schedule_arguments(parser: argparse.ArgumentParser, title: str = "schedule") -> None:
    """Add the noise levels, the step list and the policy, under `title`."""
    group = parser.add_argument_group(title)
    group.add_argument(
        "--preset",
        help="a schedule such as disca-n4 (an unknown name lists all), or a .json file of search",
    )
    group.add_argument("--steps", type=int, help="number of Euler steps")
    group.add_argument("--shift", type=float, help="shift of the sigmas towards noise")
    group.add_argument("--sigmas", type=numbers, help="noise levels in place of these: 1,0.9,0.5")
    group.add_argument("--timesteps", type=numbers, help="the same times 1000: 1000,900,500")
    group.add_argument("--step-list", type=step_list, help="indices of the full steps: 0,2,5")
    group.add_argument(
        "--policy",
        help="how steps are cached: full, disca, teacache ... (disca-rt caches lists all), with a "
        "preset or options such as taylor:order=2,interval=5; A+B: how A decides, what B gives",
    )


def add_fp8_argument(group: argparse._ActionsContainer) -> None:
    """Add --fp8, --fp8-weights and --fp8-table, of which one may be given: all are `fp8`."""
    one = group.add_mutually_exclusive_group()
    for flag, name, text in (
        ("--fp8", "compute", "compute in FP8: linears and attention of all blocks but the ends"),
        ("--fp8-weights", "weights", "keep the DiT's weights in FP8, decoded at each use: half "
         "the memory, no faster; for GPUs without FP8 units"),
    ):  # fmt: skip
        one.add_argument(flag, action="store_const", const=name, dest="fp8", help=text)
    one.add_argument(
        "--fp8-table",
        metavar="FILE.json",
        dest="fp8",
        help="--fp8 with layers of its own choice: patterns of names to fp8, weights or 16 bits",
    )


def given(args: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Arguments among `names` that were given, by name."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def check_writable(flag: str, path: Path, suffix: str) -> None:
    """Raise ValueError unless `path`, ending in `suffix`, could be written; leaves no trace."""
    if path.suffix != suffix:
        raise ValueError(f"{flag} must end in {suffix}, got {path}")
    try:
        atomic.check_writable(path)
    except OSError as error:
        raise ValueError(f"{flag} {error}") from error
