"""A rank that dies, hangs or raises ends all of them, each naming it; nothing is left behind."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from parallel.launch import forked, pids_of_ranks, torchrun, without_torchrun

WORKER = Path(__file__).with_name("failing_worker.py")
TIMEOUT = 6  # seconds
PATIENCE = 20  # seconds: three to find out who it was; the rest for crowded cores
EXCHANGE = "tokens for heads, |heads for tokens, "
STEP = "forward and backward"
GONE = ", which keeps the store, is gone"
PROMPT = "a red circle moving left on a black background"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "where", "count", "named", "operation"),
    [
        ("dies", "exchange", 3, "rank 1 died or was stopped", EXCHANGE),
        ("hangs", "exchange", 3, "rank 1 hangs after 13 operations of", "tokens for heads, "),
        ("raises", "exchange", 3, "rank 1: the disk is full", EXCHANGE),
        ("stops", "ring", 4, "rank 1 died or was stopped", f"round the ring, |{EXCHANGE}"),
        ("hangs", "ring", 4, "rank 1 hangs after 24 operations of", f"round the ring, |{EXCHANGE}"),
        ("hangs", "gather", 3, "rank 1 hangs after 4 operations of 5", "patches of all ranks: "),
        ("hangs", "operation", 3, f"rank 1 hangs in {STEP} after 7 collectives of 8", f"{STEP}: "),
        ("dies", "operation", 3, "rank 1 died or was stopped", STEP),
        ("hangs", "checkpoint", 3, "rank 1 hangs in checkpoint after ", "checkpoint: "),
        ("hangs", "end", 3, "rank 1 hangs after 5 operations of 6", "barrier: "),
    ],
)
def test_the_others_name_the_rank_and_the_operation(
    way: str, where: str, count: int, named: str, operation: str, tmp_path: Path
) -> None:
    process = forked(count, WORKER, way, where, str(TIMEOUT), tmp_path)
    output, _ = process.communicate()
    assert process.returncode != 0
    failed = float(re.search(r"FAILS AT ([0-9.]+)", output)[1])
    for rank in {*range(count)} - {1}:
        said = [line for line in output.splitlines() if line.startswith(f"RANK {rank} SAYS")]
        assert len(said) == 1, output[-4000:]
        at, _, told = said[0].removeprefix(f"RANK {rank} SAYS AT ").partition(" ")
        assert float(at) - failed < TIMEOUT + PATIENCE
        assert re.match(f"RankFailure: {named}.*; rank {rank} was at: ({operation})", told), told
    assert killed(output) == (way == "stops")


def killed(output: str) -> int:
    """Number of ranks that had not ended in their time: one that is stopped cannot."""
    return sum(map(int, re.findall("KILLED ([0-9]+)", output)))


@pytest.mark.slow
def test_ranks_that_await_nothing_on_the_host_end_too(tmp_path: Path) -> None:
    """An exchange that fails raises no error here, as on GPUs."""
    process = forked(3, WORKER, "stops", "gpu", str(TIMEOUT), tmp_path)
    output, _ = process.communicate()
    assert process.returncode != 0
    failed = "rank 1 died or was stopped"
    for rank in (0, 2):  # the end of one may be an error for the other
        assert re.search(f"{failed}; rank {rank} was at: (work on the GPU|{EXCHANGE})", output)
    assert re.search(f"disca-rt: error: {failed}; rank [02] was at: work on the GPU", output)
    assert killed(output) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "named"), [("dies", GONE), ("raises", f"{GONE}|: the disk is full")]
)
def test_the_rank_that_keeps_the_store_is_named(
    way: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILING_RANK", "0")
    processes = without_torchrun(2, WORKER, way, "exchange", str(TIMEOUT), tmp_path)
    outputs = [process.communicate()[0] for process in processes]
    assert re.search(f"RankFailure: rank 0({named}); rank 1 was at: ({EXCHANGE})", outputs[1])
    assert "Traceback" not in outputs[1]
    assert all(process.returncode for process in processes)


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
