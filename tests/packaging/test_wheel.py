"""The wheel holds the package, the kernels inside it and the embedded model; nothing else, once."""

import os
import subprocess
from pathlib import Path
from zipfile import ZipFile

from disca_rt import __version__

WEIGHTS = "disca_rt/tiny/weights"


def files(wheel: Path) -> list[str]:
    return sorted(name for name in ZipFile(wheel).namelist() if not name.endswith("/"))


def package_files(source: Path) -> set[str]:
    """What of the tree belongs into the wheel, under the names it has there."""
    python = {p.relative_to(source).as_posix() for p in (source / "disca_rt").rglob("*.py")}
    kernels = {f"disca_rt/kernels/{p.name}" for p in (source / "kernels").iterdir() if p.is_file()}
    weights = {f"{WEIGHTS}/{p.name}" for p in (source / WEIGHTS).glob("*")}
    page = {f"disca_rt/profiling/{name}" for name in ("page.html", "timeline.js")}
    return python | kernels | weights | page


def test_holds_exactly_the_package_and_every_file_once(source: Path, wheel: Path) -> None:
    names = files(wheel)
    assert len(names) == len(set(names))
    packaged = {name for name in names if ".dist-info/" not in name}
    assert packaged == package_files(source)
    assert "disca_rt/kernels/reference.py" in packaged
    # No top-level `kernels`, no tests, no bench.
    assert {n.split("/")[0] for n in names} == {"disca_rt", f"disca_rt-{__version__}.dist-info"}


def test_carries_the_embedded_model(wheel: Path) -> None:
    names = {Path(name).name for name in files(wheel) if name.startswith(WEIGHTS)}
    assert "config.json" in names
    assert any(name.endswith(".safetensors") for name in names)


def test_source_distribution_gives_the_same_wheel(wheel: Path, wheel_from_sdist: Path) -> None:
    assert files(wheel_from_sdist) == files(wheel)


def test_installed_wheel_imports_its_kernels(installed: Path, python, tmp_path: Path) -> None:
    where = "import disca_rt.kernels.ops as ops; print(ops.__file__)"
    found = Path(python("-c", where, cwd=tmp_path, path=installed))
    assert found == installed / "disca_rt/kernels/ops.py"
    assert not (installed / "kernels").exists()


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
