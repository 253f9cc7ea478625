"""Which folders are packages, where they live, and the C++ extension. Metadata: pyproject.toml."""

from setuptools import find_packages, setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

setup(
    # kernels/ has no __init__.py, so that the PyPI package `kernels` wins over it when Python runs
    # from the repository root (PEP 420). find_packages() therefore does not see it.
    packages=[*find_packages(include=["disca_rt", "disca_rt.*"]), "disca_rt.kernels"],
    package_dir={"disca_rt.kernels": "kernels"},
    ext_modules=[
        CppExtension(
            "disca_rt.parallel._native",
            ["csrc/bindings.cpp", "csrc/plan.cpp", "csrc/scheduler.cpp"],
            extra_compile_args=["-O2", "-std=c++20", "-Wall", "-Wextra", "-Wno-unused-parameter"],
        )
    ],
    cmdclass={"build_ext": BuildExtension},
)
