"""An editable install reaches the repository's files, from any folder."""

import sysconfig
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # a build takes half a minute, or ten minutes on crowded cores
    pytest.mark.xdist_group("extension"),  # built by one worker for all tests
]

# -S keeps out the interpreter's own .pth files, and with them another editable install.
START = f"""
import importlib.util, site, sys
site.addsitedir(sys.argv[1])
sys.path.append({sysconfig.get_path("purelib")!r})
"""


def test_kernels_are_the_folder_of_the_repository(
    editable: Path, source: Path, python, tmp_path: Path
) -> None:
    code = START + "import disca_rt.kernels.ops as ops; print(ops.__file__)"
    found = Path(python("-S", "-c", code, editable, cwd=tmp_path))
    assert found.resolve() == source / "kernels/ops.py"


@pytest.mark.parametrize(
    ("module", "place", "function"),
    [
        ("disca_rt.parallel._native", "disca_rt/parallel/_native", "token_shard"),
        ("disca_rt.kernels._cpu", "kernels/_cpu", "gelu_tanh"),
    ],
)
def test_extensions_are_in_the_folders_of_the_repository(
    module: str, place: str, function: str, editable: Path, source: Path, python, tmp_path: Path
) -> None:
    code = START + f"import torch, {module} as n; print(n.__file__, n.{function})"
    found, rest = python("-S", "-c", code, editable, cwd=tmp_path).split(maxsplit=1)
    expected = source / f"{place}{sysconfig.get_config_var('EXT_SUFFIX')}"
    assert Path(found).resolve() == expected
    assert "built-in" in rest


def test_no_top_level_folder_of_the_repository_becomes_importable(
    editable: Path, python, tmp_path: Path
) -> None:
    code = START + "print([importlib.util.find_spec(name) for name in ('bench', 'tests')])\n"
    code += "spec = importlib.util.find_spec('kernels'); print(spec and spec.origin)"
    specs, kernels = python("-S", "-c", code, editable, cwd=tmp_path).splitlines()
    assert specs == "[None, None]"
    assert kernels == "None" or kernels.endswith("__init__.py")  # the PyPI package, if installed


def test_the_link_is_relative(root: Path) -> None:
    assert (root / "disca_rt/kernels").readlink() == Path("../kernels")
