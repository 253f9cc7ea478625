"""Which folders are packages and where they live. All metadata is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    # kernels/ has no __init__.py, so that the PyPI package `kernels` wins over it when Python runs
    # from the repository root (PEP 420). find_packages() therefore does not see it.
    packages=[*find_packages(include=["disca_rt", "disca_rt.*"]), "disca_rt.kernels"],
    package_dir={"disca_rt.kernels": "kernels"},
)
