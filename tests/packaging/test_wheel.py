"""The wheel holds the package, its kernels, extension and embedded model; nothing else, once."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest

from disca_rt import __version__

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # on crowded cores
    pytest.mark.xdist_group("extension"),  # built by one worker for all tests
]

WEIGHTS = "disca_rt/tiny/weights"
NATIVE, CPU = (
    f"disca_rt/{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    for name in ("parallel/_native", "kernels/_cpu")
)


def files(wheel: Path) -> list[str]:
    return sorted(name for name in ZipFile(wheel).namelist() if not name.endswith("/"))


def package_files(source: Path) -> set[str]:
    """Files of the tree that belong into the wheel, by their names in it."""
    python = {p.relative_to(source).as_posix() for p in (source / "disca_rt").rglob("*.py")}
    kernels = {f"disca_rt/kernels/{p.name}" for p in (source / "kernels").iterdir() if p.is_file()}
    beside = (p for p in (source / WEIGHTS).rglob("*") if p.is_file())
    weights = {p.relative_to(source).as_posix() for p in beside}
    page = {f"disca_rt/profiling/{name}" for name in ("page.html", "timeline.js")}
    return python | kernels | weights | page | {NATIVE, CPU}


def test_holds_exactly_the_package_and_every_file_once(source: Path, wheel: Path) -> None:
    names = files(wheel)
    assert len(names) == len(set(names))
    packaged = {name for name in names if ".dist-info/" not in name}
    assert packaged == package_files(source)
    assert "disca_rt/kernels/reference.py" in packaged
    # No top-level `kernels`, no csrc, no tests, no bench.
    assert {n.split("/")[0] for n in names} == {"disca_rt", f"disca_rt-{__version__}.dist-info"}


def test_source_distribution_has_all_that_is_compiled(source: Path, unpacked: Path) -> None:
    ours, theirs = ({p.name for p in (root / "csrc").iterdir()} for root in (source, unpacked))
    assert ours == theirs
    assert {"partition.h", "partition.cpp", "cpu_kernels.h", "cpu_ops.cpp"} < ours


def test_carries_the_embedded_model(wheel: Path) -> None:
    names = {Path(name).name for name in files(wheel) if name.startswith(WEIGHTS)}
    assert "config.json" in names
    assert any(name.endswith(".safetensors") for name in names)


def test_is_for_this_python_and_platform(wheel: Path) -> None:
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name == f"disca_rt-{__version__}-{python}-{python}-{platform}.whl"


@pytest.mark.parametrize("extension", [NATIVE, CPU])
def test_extensions_are_stripped(wheel: Path, extension: str) -> None:
    assert ZipFile(wheel).getinfo(extension).file_size < 1_000_000  # 0.36 MB; unstripped 15


def test_the_tree_gives_the_wheel_of_the_source_distribution(
    wheel: Path, wheel_of_tree: Path
) -> None:
    assert files(wheel_of_tree) == files(wheel)


def test_installed_wheel_imports_its_kernels(installed: Path, python, tmp_path: Path) -> None:
    where = "import disca_rt.kernels.ops as ops; print(ops.__file__)"
    found = Path(python("-c", where, cwd=tmp_path, path=installed))
    assert found == installed / "disca_rt/kernels/ops.py"
    assert not (installed / "kernels").exists()


def test_installed_wheel_imports_its_extensions(installed: Path, python, tmp_path: Path) -> None:
    code = (
        "import disca_rt.parallel._native as n; print(n.__file__, n.token_shard(9, 1, 2, 1).tokens)"
        "; import disca_rt.kernels._cpu as c, torch; print(c.__file__, c.gelu_tanh(torch.zeros(1)))"
    )
    found = python("-c", code, cwd=tmp_path, path=installed)
    assert found.splitlines() == [f"{installed / NATIVE} 5", f"{installed / CPU} tensor([0.])"]


def test_installed_command_runs(installed: Path, python, tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(installed)}
    command = subprocess.run(
        [installed / "bin/disca-rt", "--help"],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "generate" in command.stdout
    assert (
        python("-m", "disca_rt", "--help", cwd=tmp_path, path=installed) == command.stdout.strip()
    )
