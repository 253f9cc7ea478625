"""A rank that dies, hangs or raises ends all of them, each naming it; nothing is left behind."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from parallel.launch import torchrun

WORKER = Path(__file__).with_name("failing_worker.py")
TIMEOUT = 6  # seconds
PROMPT = "a red circle moving left on a black background"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "named"),
    [
        ("dies", "rank 1 died or was stopped"),
        ("hangs", "rank 1 hangs after"),
        ("raises", "rank 1: the disk is full"),
    ],
)
def test_the_others_name_the_rank_and_the_operation(way: str, named: str) -> None:
    started = time.monotonic()
    process = torchrun(3, WORKER, way, str(TIMEOUT))
    ranks = pids_of_ranks(process.pid, 3)
    output, _ = process.communicate(timeout=120)
    taken = time.monotonic() - started
    assert process.returncode != 0
    assert taken < 60 + TIMEOUT
    for rank in (0, 2):
        said = [line for line in output.splitlines() if line.startswith(f"RANK {rank} SAYS")]
        assert len(said) == 1, output[-4000:]
        assert "RankFailure" in said[0]
        assert named in said[0]
    assert "tokens for heads" in output or "heads for tokens" in output
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)


@pytest.mark.slow
def test_ranks_started_differently_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "a.mp4"
    command = f'{sys.executable} -m disca_rt generate "{PROMPT}" --seed $RANK --out {out}'
    process = torchrun(2, "--no-python", "bash", "-c", command)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "ranks must be started alike: --seed is 0 on rank 0 and 1 on rank 1" in output
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_killed_rank_leaves_no_file_and_no_process(tmp_path: Path) -> None:
    out = tmp_path / "a.mp4"
    flags = "--out", out, "--steps", "900", "--policy", "full", "--size", "64x48x9"
    process = torchrun(2, "-m", "disca_rt", "generate", PROMPT, *flags)
    ranks = pids_of_ranks(process.pid, 2)
    time.sleep(15)
    os.kill(ranks[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "died or was stopped" in output
    assert not list(tmp_path.iterdir())
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)


def pids_of_ranks(launcher: int, count: int) -> list[int]:
    """The launcher's children, by rank, as soon as there are `count`."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children")
    while len(found := children.read_text().split()) < count:
        time.sleep(0.1)
    return sorted(map(int, found))
