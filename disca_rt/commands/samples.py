"""Samples of a command that runs many, one after the other: of prompts, or saved conditionings.

Each is asked for by the flags that generate has, with a prompt or a file of its own; prompts are
encoded together, so that encoders are loaded once.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import plain_text, prompt
from .sampling import check_sampling_arguments, sample_request

if TYPE_CHECKING:
    from ..pipeline.request import Request
    from ..pipeline.runtime import Runtime


def prompts(text: str) -> int | Path:
    """Read a number of prompts, or the name of a file with one a line."""
    return int(text) if text.isascii() and text.isdigit() else Path(text)


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file, one a line; ValueError names the file, or the line."""
    if not path.is_file():
        raise ValueError(f"--prompts must be a file, or a number, got {str(path)!r}")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompts {path} is not text in UTF-8; write one prompt a line") from (
            error
        )
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(prompt(plain_text(line.strip())))
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"--prompts {path}, line {number}: {error}") from error
    if not found:
        raise ValueError(f"--prompts {path} has no prompts; write one a line")
    return found


def sample_flags(args: argparse.Namespace) -> list[argparse.Namespace]:
    """The flags of each sample, checked: those of `args` with one prompt or conditioning.

    `args.prompts` is a file, `args.conditioning` a list of files; a prompt is one sample.
    """
    given = [each for each in (args.prompt, args.prompts, args.conditioning) if each is not None]
    if len(given) != 1:
        raise ValueError("give one of --prompts FILE, --conditioning FILE... and a prompt")
    if args.conditioning is not None:
        one_each = [{"conditioning": path} for path in args.conditioning]
    else:
        texts = [args.prompt] if args.prompts is None else read_prompts(args.prompts)
        one_each = [{"prompt": text} for text in texts]
    none = {"prompt": None, "conditioning": None}
    flags = [argparse.Namespace(**vars(args) | none | one) for one in one_each]
    for each in flags:
        check_sampling_arguments(each)
    return flags


def sample_requests(flags: list[argparse.Namespace], runtime: "Runtime") -> "list[Request]":
    """The encoded requests of all samples, one of each row; the noise of number i is of seed + i.

    The tensors of prompts lie in the host's memory until they are used.
    """
    found: list[Request] = []
    with runtime.keeping("text_encoder"):
        for each in flags:
            request = sample_request(each, runtime, None, False)
            found += (
                replace(row, seed=each.seed + len(found) + i) for i, row in enumerate(rows(request))
            )
    return found


def rows(request: "Request") -> "Iterator[Request]":
    """A request of each sample of an encoded one, in the host's memory."""
    for number in range(request.conditioning.batch):
        row = slice(number, number + 1)
        yield replace(
            request,
            conditioning=request.conditioning.rows(row).to("cpu"),
            negative=None if request.negative is None else request.negative.rows(row).to("cpu"),
            latents=None if request.latents is None else request.latents[row],
        )
