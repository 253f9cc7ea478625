"""The command line `disca-rt`: parse, dispatch, turn what went wrong into one line.

The exit code is then 2, or 130 where the run was interrupted, as a shell has it.

A RuntimeError that is not about memory is our own bug and keeps its traceback.

Subcommands import what they need when they run, so that `--help` answers at once.
"""

import argparse
import os
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from . import __version__
from .commands import (
    bench,
    caches,
    calibrate,
    decode,
    evaluate,
    flops,
    generate,
    inspect,
    plan,
    profile,
    search,
    train,
    tune,
)
from .errors import OneLineWarning, first_line

COMMANDS = {
    "generate": generate,
    "decode": decode,
    "inspect": inspect,
    "flops": flops,
    "plan": plan,
    "train": train,
    "evaluate": evaluate,
    "calibrate": calibrate,
    "caches": caches,
    "search": search,
    "tune": tune,
    "bench": bench,
    "profile": profile,
}
FAILURE = 2
INTERRUPTED = 128 + signal.SIGINT
_format_of_python = warnings.formatwarning
NUMBERS = r"[-+.,;\[\](){}0-9eE]*[0-9][-+.,;\[\](){}0-9eE]*|[\])}]"
# Flags of lists -> the words that go on with one: numbers, and options of a policy.
LISTS = dict.fromkeys(("--step-list", "--world-sizes", "--sigmas", "--timesteps"), NUMBERS)
LISTS["--policy"] = r"[a-z_]+=\S*|,\S*"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code: 0, or 2 or 130 after one line on stderr."""
    args = build_parser().parse_args(argv)
    args.kept = None  # a command says in it what it has kept, and how to go on
    signal.signal(signal.SIGTERM, _interrupt)
    warnings.formatwarning = _format_warning
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files may be any bytes
    if os.environ.get("RANK", "0") != "0":  # all ranks load alike; one says so
        warnings.simplefilter("ignore", OneLineWarning)
    try:
        COMMANDS[args.command].run(args)
    except KeyboardInterrupt:
        left = getattr(COMMANDS[args.command], "interrupted", lambda args: "nothing was written")
        return _fail(f"interrupted; {args.kept or left(args)}", code=INTERRUPTED)
    except MemoryError as error:
        return _fail(f"out of memory: {error}", args.kept)
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        return _fail(str(error), args.kept)
    except RuntimeError as error:
        from .commands.out_of_memory import is_out_of_memory
        from .graphs.runner import CaptureError

        if isinstance(error, CaptureError):
            return _fail(str(error))
        if not is_out_of_memory(error):
            if args.kept:
                print(args.kept, file=sys.stderr)
            raise
        return _fail(f"out of memory: {first_line(error)}; choose a smaller --size")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all subcommands."""
    parser = OneLineParser(
        prog="disca-rt", description="HunyuanVideo with DisCa, from checkpoint to video."
    )
    parser.add_argument("--version", action="version", version=f"disca-rt {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add_parser(subparsers, name)
    return parser


class OneLineParser(argparse.ArgumentParser):
    """Parser that says what is wrong in one line and takes lists with spaces or commas."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        return super().parse_args(with_commas(sys.argv[1:] if args is None else args), namespace)

    def error(self, message: str) -> NoReturn:
        left = message.partition("unrecognized arguments: ")[2]
        hint = "; a prompt of several words has quotes around it"
        sys.exit(_fail(message + hint * bool(left and not left.startswith("-"))))


def with_commas(words: Sequence[str]) -> list[str]:
    """Join the words of a list: --step-list 0 2 becomes --step-list=0,2."""
    joined: list[str] = []
    goes_on = None
    for word in words:
        is_first = goes_on and joined[-1].endswith("=") and not word.startswith("--")
        if is_first or (goes_on and re.fullmatch(goes_on, word)):
            is_named = joined[-1].startswith("--policy") and ":" not in joined[-1]
            between = "" if is_first else ":" if is_named else ","
            joined[-1] = joined[-1].rstrip(",") + between + word
            continue
        goes_on = LISTS.get(word.partition("=")[0])
        joined.append(f"{word}=" if word in LISTS else word)
    return joined


def _fail(message: str, kept: str | None = None, code: int = FAILURE) -> int:
    """Say what went wrong and, where something is kept of it, how to go on; gives the code."""
    print(f"disca-rt: error: {message}{f'; {kept}' if kept else ''}", file=sys.stderr)
    return code


def _format_warning(message: Warning | str, category: type[Warning], *where: Any) -> str:
    """Format our warnings in one line, without the place in the code, which is not the user's."""
    if issubclass(category, OneLineWarning):
        return f"disca-rt: warning: {message}\n"
    return _format_of_python(message, category, *where)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt
