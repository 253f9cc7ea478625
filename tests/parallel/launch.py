"""Starts of ranks in processes of their own, with the tree's code."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
FORKED = Path(__file__).with_name("forked.py")


def torchrun(ranks: int, *command: str | Path) -> subprocess.Popen:
    """Start `command` as a user does; its output is what the ranks print, both streams."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return _python({}, *launch, *command)


def forked(ranks: int, *command: str | Path) -> subprocess.Popen:
    """Start a script, or `-m` and a module, as `torchrun` does at a third of its cost."""
    return _python({}, FORKED, str(ranks), *command)


def without_torchrun(ranks: int, *command: str | Path) -> list[subprocess.Popen]:
    """Start ranks by hand, as other launchers do: the first one keeps the store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks)}
    return [
        _python({**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)}, *command)
        for rank in range(ranks)
    ]


def _python(environment: dict[str, str], *command: str | Path) -> subprocess.Popen:
    tree = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", *map(str, command)],
        env=os.environ | tree | environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def passes(process: subprocess.Popen) -> str:
    """Output of a worker, which must end without error."""
    output, _ = process.communicate()
    assert process.returncode == 0, output[-4000:]
    return output


def pids_of_ranks(launcher: int, count: int) -> list[int]:
    """The launcher's children, by rank, as soon as there are `count`."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children")
    while len(found := children.read_text().split()) < count:
        time.sleep(0.1)
    return sorted(map(int, found))
