"""What a measurement ran on: the CPU, the library versions and how busy the machine was."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import disca_rt

CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Machine:
    """`diffusers` is None where it is not installed; the rest are names and versions.

    `omp_wait_policy` is how idle OpenMP threads wait: spinning, the default, costs a busy machine.
    """

    device: str
    cpus: int
    omp_wait_policy: str
    python: str
    torch: str
    diffusers: str | None
    disca_rt: str


def this_machine() -> Machine:
    return Machine(
        device=f"CPU: {_cpu_name()}",
        cpus=os.cpu_count() or 1,
        omp_wait_policy=os.environ.get("OMP_WAIT_POLICY", "default"),
        python=platform.python_version(),
        torch=torch.__version__,
        diffusers=_version("diffusers"),
        disca_rt=disca_rt.__version__,
    )


def load_average() -> float | None:
    """Runnable tasks over the last minute, this process included; None where the OS has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _cpu_name() -> str:
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
