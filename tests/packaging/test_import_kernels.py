"""`import kernels` at the repository root is the PyPI package of that name, never our folder.

Our folder comes first on the path there, but having no `__init__.py` it is only a namespace
candidate, and a regular package anywhere later on the path wins (PEP 420).
"""

import importlib.metadata
from pathlib import Path

import pytest

IMPORT = "import sys; sys.path[1:1] = sys.argv[1:]; import kernels; print(kernels.__file__)"


def test_a_regular_package_after_the_root_wins(root: Path, python, tmp_path: Path) -> None:
    stand_in = tmp_path / "kernels/__init__.py"
    stand_in.parent.mkdir()
    stand_in.touch()
    assert Path(python("-c", IMPORT, tmp_path, cwd=root)) == stand_in


def test_the_pypi_package_wins(root: Path, python, tmp_path: Path) -> None:
    try:
        package = importlib.metadata.distribution("kernels").locate_file("kernels")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the PyPI package `kernels` is not installed")
    code = "from importlib.util import find_spec; print(find_spec('kernels').origin)"
    assert Path(python("-c", code, cwd=root)) == Path(str(package)) / "__init__.py"


def test_diffusers_does_not_take_our_folder_for_it(root: Path, python) -> None:
    """diffusers does `from kernels import get_kernel` where it believes the package is there."""
    code = "from diffusers.utils import is_kernels_available; print(is_kernels_available())"
    installed = "kernels" in {d.metadata["Name"] for d in importlib.metadata.distributions()}
    assert python("-c", code, cwd=root) == str(installed)
