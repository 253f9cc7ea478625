"""A rank that dies, hangs or raises ends all of them, each naming it; nothing is left behind."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from parallel.launch import pids_of_ranks, torchrun

WORKER = Path(__file__).with_name("failing_worker.py")
TIMEOUT = 6  # seconds
PATIENCE = 20  # seconds: three to find out who it was; the rest for crowded cores
PROMPT = "a red circle moving left on a black background"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "where", "count", "named", "operation"),
    [
        ("dies", "exchange", 3, "rank 1 died or was stopped", "tokens for heads|heads for tokens"),
        ("hangs", "exchange", 3, "rank 1 hangs after 12 operations of", "tokens for heads"),
        ("raises", "exchange", 3, "rank 1: the disk is full", "tokens for heads|heads for tokens"),
        ("stops", "ring", 4, "rank 1 died or was stopped", "round the ring"),
        ("hangs", "ring", 4, "rank 1 hangs after 23 operations of", "round the ring"),
        ("hangs", "gather", 3, "rank 1 hangs after 3 operations of 4", "patches of all ranks"),
        ("hangs", "end", 3, "rank 1 hangs after 4 operations of 5", "barrier"),
    ],
)
def test_the_others_name_the_rank_and_the_operation(
    way: str, where: str, count: int, named: str, operation: str
) -> None:
    process = torchrun(count, WORKER, way, where, str(TIMEOUT))
    ranks = pids_of_ranks(process.pid, count)
    output, _ = process.communicate()
    assert process.returncode != 0
    failed = float(re.search(r"FAILS AT ([0-9.]+)", output)[1])
    for rank in {*range(count)} - {1}:
        said = [line for line in output.splitlines() if line.startswith(f"RANK {rank} SAYS")]
        assert len(said) == 1, output[-4000:]
        at, _, told = said[0].removeprefix(f"RANK {rank} SAYS AT ").partition(" ")
        assert float(at) - failed < TIMEOUT + PATIENCE
        assert told.startswith("RankFailure: ")
        assert named in told
    assert re.search(f"RANK [0-9] SAYS .*was at: ({operation})", output), output[-4000:]
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)


@pytest.mark.slow
def test_ranks_started_differently_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "a.mp4"
    command = f'{sys.executable} -m disca_rt generate "{PROMPT}" --seed $RANK --out {out}'
    process = torchrun(2, "--no-python", "bash", "-c", command)
    output, _ = process.communicate()
    assert process.returncode != 0
    assert "ranks must be started alike: --seed is 0 on rank 0 and 1 on rank 1" in output
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_killed_rank_leaves_no_file_and_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.mp4"
    monkeypatch.setenv("FORCE_COLOR", "1")  # the first rank shows its progress
    flags = "--out", out, "--steps", "900", "--policy", "full", "--size", "64x48x9"
    process = torchrun(2, "-m", "disca_rt", "generate", PROMPT, *flags)
    ranks = pids_of_ranks(process.pid, 2)
    assert any("full step" in line for line in process.stdout)
    os.kill(ranks[1], signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode != 0
    assert "died or was stopped" in output
    assert not list(tmp_path.iterdir())
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
