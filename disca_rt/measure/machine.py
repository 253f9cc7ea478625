"""Description of the machine that measures: CPU or GPU, library versions, how busy it is."""

import os
import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import torch

from .. import __version__
from ..attention.backends import BACKENDS
from ..instruments.device_name import device_name


@dataclass(frozen=True)
class Machine:
    """Names and versions that a result depends on.

    `diffusers` is None where it is not installed. `omp_wait_policy` is how idle OpenMP threads
    wait: spinning, the default, costs a busy machine. `libraries` are the versions of the packages
    that are installed and matter on a GPU.
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
    *(row.install for row in BACKENDS.values() if row.install is not None),
    "liger-kernel",
    "quack-kernels",
    "cache-dit",
    "nvidia-cudnn-cu13",
)


def this_machine(device: torch.device | None = None) -> Machine:
    """Description of this machine, whose device is `device`, by default the CPU."""
    device = device or torch.device("cpu")
    is_gpu = device.type == "cuda"
    found = {name: _version(name) for name in GPU_LIBRARIES} if is_gpu else {}
    return Machine(
        device=device_name(device),
        cpus=os.cpu_count() or 1,
        omp_wait_policy=os.environ.get("OMP_WAIT_POLICY", "default"),
        python=platform.python_version(),
        torch=torch.__version__,
        diffusers=_version("diffusers"),
        disca_rt=__version__,
        libraries={name: version for name, version in found.items() if version},
    )


def load_average() -> float | None:
    """Mean number of runnable tasks over the last minute; None where the OS does not count."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
