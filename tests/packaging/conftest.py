"""The distributions under test, built from a copy of the tree so that no stale build/ leaks in."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_SOURCE = shutil.ignore_patterns(
    *(".*", "build", "dist", "out", "golden", "*.egg-info", "__pycache__", "*.partial", "*.so")
)

Python = Callable[..., str]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository root."""
    return ROOT


@pytest.fixture(scope="session")
def python() -> Python:
    """`python(*args, cwd=..., path=...)` runs a fresh interpreter and returns its stdout.

    `path` is its whole PYTHONPATH, so that the tree under test is reached in one way only.
    """

    def run(*args: str | Path, cwd: Path, path: Path | str = "") -> str:
        env = os.environ | {"PYTHONPATH": str(path)}
        done = subprocess.run(
            [sys.executable, *args], cwd=cwd, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    return run


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as a fresh clone has it, links included."""
    copy = tmp_path_factory.mktemp("source") / "disca_rt"
    return shutil.copytree(ROOT, copy, symlinks=True, ignore=NOT_SOURCE)


@pytest.fixture(scope="session")
def dist_info(source: Path, python: Python, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's metadata, for which nothing is compiled."""
    out = tmp_path_factory.mktemp("metadata")
    build_with("prepare_metadata_for_build_wheel", python, source, out)
    return next(out.glob("*.dist-info"))


@pytest.fixture(scope="session")
def wheel(source: Path, python: Python, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the tree."""
    return build_wheel(python, source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def wheel_from_sdist(
    source: Path, python: Python, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The wheel built from the source distribution."""
    out = tmp_path_factory.mktemp("sdist")
    build_with("build_sdist", python, source, out)
    return build_wheel(python, next(out.glob("*.tar.gz")), out)


@pytest.fixture(scope="session")
def editable(source: Path, python: Python, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site folder with an editable install of `source`."""
    out = tmp_path_factory.mktemp("editable")
    build_with("build_editable", python, source, out)
    return install(python, next(out.glob("*.whl")), out / "site")


@pytest.fixture(scope="session")
def installed(wheel: Path, python: Python, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site folder with the wheel installed."""
    return install(python, wheel, tmp_path_factory.mktemp("installed"))


def build_wheel(python: Python, origin: Path, out: Path) -> Path:
    """Build the wheel of a tree or a source distribution with pip, offline."""
    python(*PIP, "wheel", *OFFLINE, "--no-build-isolation", "-w", out, origin, cwd=out)
    return next(out.glob("*.whl"))


def build_with(hook: str, python: Python, source: Path, out: Path) -> None:
    """Call one PEP 517 hook of the build backend."""
    python("-c", f"from setuptools import build_meta as b; b.{hook}({str(out)!r})", cwd=source)


def install(python: Python, wheel: Path, site: Path) -> Path:
    """Install one wheel into the folder `site`, offline."""
    python(*PIP, "install", *OFFLINE, "--target", site, wheel, cwd=site.parent)
    return site


PIP = ("-m", "pip", "-q", "--disable-pip-version-check")
OFFLINE = ("--no-deps", "--no-index")
