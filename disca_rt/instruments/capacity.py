"""Memory that this process could have on a device, by what the system says. Knows no models."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

MEMORY_INFO = Path("/proc/meminfo")
GROUPS = Path("/sys/fs/cgroup")
GROUP_FILES = (
    (GROUPS / "memory.max", GROUPS / "memory.current"),
    (GROUPS / "memory/memory.limit_in_bytes", GROUPS / "memory/memory.usage_in_bytes"),
)


def capacity(device: torch.device) -> int:
    """Bytes that this process could have: a GPU's free ones and its own, or the available RAM.

    RAM is what the machine has left, or less where a control group has a limit.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    return min(_available(), *(limit - used for limit, used in _group_limits()))


def _available() -> int:
    if MEMORY_INFO.is_file():
        lines = (line.split() for line in MEMORY_INFO.read_text().splitlines())
        return next(1024 * int(line[1]) for line in lines if line[0] == "MemAvailable:")
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _group_limits() -> Iterator[tuple[int, int]]:
    """Limit and use, in bytes, of the control group of a container, by either version."""
    yield sys.maxsize, 0
    for limit, used in GROUP_FILES:
        if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdigit():
            yield int(text), int(used.read_text())
