"""Refusals by `disca-rt`: exit code 2, of interruptions 130, and one line on stderr."""

from collections.abc import Iterable

import pytest

from disca_rt.cli import main

PREFIX = "disca-rt: error: "
NOT_OURS = "USDT:"  # of PyTorch's profiler, where torch was imported before `profile` quiets it


def refusal(arguments: Iterable[object], capsys: pytest.CaptureFixture[str]) -> str:
    """The line with which `disca-rt` refuses `arguments`."""
    capsys.readouterr()
    try:
        code = main([str(part) for part in arguments])
    except SystemExit as exit:
        code = exit.code
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if not line.startswith(NOT_OURS)]
    is_interrupted = said.startswith(f"{PREFIX}interrupted")
    assert (code, len(lines)) == (130 if is_interrupted else 2, 1), said
    assert lines[0].startswith(PREFIX)
    return lines[0].removeprefix(PREFIX)
