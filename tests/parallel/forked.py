"""Ranks as torchrun starts them, but forked: what all of them import is imported once.

Run as `python forked.py RANKS (SCRIPT | -m MODULE) [ARGUMENT ...]`.
"""

import ctypes
import os
import runpy
import signal
import socket
import sys
import time

from torch.distributed import TCPStore

PR_SET_PDEATHSIG = 1  # prctl(2): what comes when the parent is gone
GRACE = 12  # seconds between SIGTERM and SIGKILL; torchrun's are 30


def main(ranks: int, command: list[str]) -> int:
    """The exit code; in a rank, that of `command`."""
    run(command, "imported")
    listening = socket.create_server(("127.0.0.1", 0), backlog=ranks)
    environment = {
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(listening.getsockname()[1]),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    assert len(os.listdir("/proc/self/task")) == 1, "a thread's locks would stay locked in a fork"
    alive = []
    for rank in range(ranks):
        if not (pid := os.fork()):
            listening.close()
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
            run(command, "__main__")
            return 0
        alive.append(pid)
    store = TCPStore(
        "127.0.0.1",
        listening.getsockname()[1],
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listening.detach(),
    )
    code = ended(alive)
    del store
    return code


def run(command: list[str], name: str) -> None:
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name=name, alter_sys=True)
    else:
        sys.argv = command
        runpy.run_path(command[0], run_name=name)


def ended(alive: list[int]) -> int:
    """Waits for all; where one fails it ends the others, and is 1."""
    failed_at, is_over = None, False
    while alive:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            alive.remove(pid)
            if status and failed_at is None:
                failed_at = time.monotonic()
                send(alive, signal.SIGTERM)
        elif failed_at and not is_over and time.monotonic() - failed_at > GRACE:
            is_over = True
            print(f"KILLED {len(alive)}", flush=True)
            send(alive, signal.SIGKILL)
        time.sleep(0.02)
    return int(failed_at is not None)


def send(alive: list[int], signum: int) -> None:
    for pid in alive:
        os.kill(pid, signum)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
