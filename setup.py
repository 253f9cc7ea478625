"""Which folders are packages, where they live, and the C++ extensions. Metadata: pyproject.toml."""

import os
import shlex
import shutil
import sys
import sysconfig
from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

try:
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ModuleNotFoundError:
    sys.exit(
        "setup.py: the C++ extensions are built against the PyTorch it will run with: "
        "pip install torch setuptools ninja, then install with --no-build-isolation"
    )


class Build(BuildExtension):
    """Says in one line what the machine lacks; a failing build would take a hundred."""

    def run(self) -> None:
        compiler = os.environ.get("CXX", "c++")
        if shutil.which(shlex.split(compiler)[0]) is None:
            sys.exit(
                f"setup.py: needs a C++ compiler, found no {compiler} "
                "(on Debian and Ubuntu: apt install g++), or name another: CXX=..."
            )
        header = Path(sysconfig.get_path("include"), "Python.h")
        if not header.exists():
            sys.exit(
                f"setup.py: needs Python's headers, found no {header} "
                "(on Debian and Ubuntu: apt install python3-dev)"
            )
        super().run()


setup(
    # kernels/ has no __init__.py, so that the PyPI package `kernels` wins over it when Python runs
    # from the repository root (PEP 420). find_packages() therefore does not see it.
    packages=[*find_packages(include=["disca_rt", "disca_rt.*"]), "disca_rt.kernels"],
    package_dir={"disca_rt.kernels": "kernels"},
    ext_modules=[
        CppExtension(
            "disca_rt.parallel._native",
            ["csrc/bindings.cpp", "csrc/partition.cpp", "csrc/scheduler.cpp"],
            depends=sorted(glob("csrc/*.h")),  # what else a source distribution needs
            # Python's own flags ask for debug information, 15 MB of it.
            extra_compile_args=[
                *("-O2", "-g0", "-std=c++20", "-Wall", "-Wextra", "-Wno-unused-parameter")
            ],
            extra_link_args=["-Wl,--strip-all"],
        ),
        CppExtension(
            "disca_rt.kernels._cpu",
            ["csrc/cpu_ops.cpp", "csrc/cpu_kernels.cpp"],
            depends=sorted(glob("csrc/*.h")),
            # Sums in any order are what makes loops wide. Threads are PyTorch's own: its OpenMP is
            # loaded already, so that none is linked.
            extra_compile_args=[
                *("-O3", "-g0", "-std=c++20", "-Wall", "-Wextra", "-Wno-unused-parameter"),
                *("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math"),
                *("-fno-math-errno", "-fopenmp"),
            ],
            extra_link_args=["-Wl,--strip-all"],
        ),
    ],
    cmdclass={"build_ext": Build},
)
