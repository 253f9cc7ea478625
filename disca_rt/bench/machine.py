"""What a measurement ran on: CPU or GPU, library versions and how busy the machine was."""

import os
import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .. import __version__

CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Machine:
    """`diffusers` is None where it is not installed; the rest are names and versions.

    `omp_wait_policy` is how idle OpenMP threads wait: spinning, the default, costs a busy machine.
    `libraries` are the versions of what else is installed and matters on a GPU.
    """

    device: str
    cpus: int
    omp_wait_policy: str
    python: str
    torch: str
    diffusers: str | None
    disca_rt: str
    libraries: dict[str, str] = field(default_factory=dict)


GPU_LIBRARIES = (
    "triton",
    "flash-attn",
    "liger-kernel",
    "quack-kernels",
    "cache-dit",
    "nvidia-cudnn-cu13",
)


def this_machine(device: torch.device | None = None) -> Machine:
    """With the CPU as the device, or the GPU `device`."""
    is_gpu = device is not None and device.type == "cuda"
    found = {name: _version(name) for name in GPU_LIBRARIES} if is_gpu else {}
    return Machine(
        device=f"GPU: {torch.cuda.get_device_name(device)}" if is_gpu else f"CPU: {_cpu_name()}",
        cpus=os.cpu_count() or 1,
        omp_wait_policy=os.environ.get("OMP_WAIT_POLICY", "default"),
        python=platform.python_version(),
        torch=torch.__version__,
        diffusers=_version("diffusers"),
        disca_rt=__version__,
        libraries={name: version for name, version in found.items() if version},
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
