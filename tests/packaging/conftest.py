"""The distributions under test, built from a copy of the tree so that no stale build/ leaks in.

None compiles the extensions: all take those that these tests import, which setup.py has built.
"""

import os
import shlex
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

# Stands in for the compiler: extensions are copied from where they are, objects are empty.
MADE_ALREADY = """#!/bin/sh
for each; do
  if [ "$before" = -o ]; then
    for made in {extensions}; do
      if [ "${{made##*/}}" = "${{each##*/}}" ]; then exec cp "$made" "$each"; fi
    done
    : > "$each"
    exit
  fi
  before=$each
done
exec c++ "$@"
"""

Python = Callable[..., str]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository root."""
    return ROOT


@pytest.fixture(scope="session")
def python() -> Python:
    """`python(*args, cwd=..., path=..., NAME=...)`: a fresh interpreter's stdout.

    `path` is its whole PYTHONPATH, so that the tree under test is reached in one way only.
    """

    def run(*args: str | Path, cwd: Path, path: Path | str = "", **env: str) -> str:
        env = os.environ | {"PYTHONPATH": str(path)} | env
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
def made_already(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiler that has nothing to compile."""
    from disca_rt.kernels import _cpu  # here: other tests are about a tree without them
    from disca_rt.parallel import _native

    compiler = tmp_path_factory.mktemp("compiler") / "c++"
    extensions = shlex.join([_cpu.__file__, _native.__file__])
    compiler.write_text(MADE_ALREADY.format(extensions=extensions))
    compiler.chmod(0o755)
    return compiler


@pytest.fixture(scope="session")
def unpacked(source: Path, python: Python, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution's folder."""
    out = tmp_path_factory.mktemp("sdist")
    build_with("build_sdist", python, source, out)
    shutil.unpack_archive(next(out.glob("*.tar.gz")), out / "unpacked", filter="data")
    (folder,) = (out / "unpacked").iterdir()
    return folder


@pytest.fixture(scope="session")
def wheel(
    unpacked: Path, python: Python, made_already: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The wheel built from the source distribution."""
    out = tmp_path_factory.mktemp("wheel")
    build_with("build_wheel", python, unpacked, out, CXX=str(made_already))
    return next(out.glob("*.whl"))


@pytest.fixture(scope="session")
def wheel_of_tree(
    source: Path, python: Python, made_already: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The wheel that pip builds from the tree, offline."""
    out = tmp_path_factory.mktemp("wheel_of_tree")
    build = (*PIP, "wheel", *OFFLINE, "--no-build-isolation", "-w", out, source)
    python(*build, cwd=out, CXX=str(made_already))
    return next(out.glob("*.whl"))


@pytest.fixture(scope="session")
def editable(
    source: Path, python: Python, made_already: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A site folder with an editable install of `source`."""
    out = tmp_path_factory.mktemp("editable")
    build_with("build_editable", python, source, out, CXX=str(made_already))
    return install(python, next(out.glob("*.whl")), out / "site")


@pytest.fixture(scope="session")
def installed(wheel: Path, python: Python, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site folder with the wheel installed."""
    return install(python, wheel, tmp_path_factory.mktemp("installed"))


def build_with(hook: str, python: Python, source: Path, out: Path, **env: str) -> None:
    """Call one PEP 517 hook of the build backend."""
    call = f"from setuptools import build_meta as b; b.{hook}({str(out)!r})"
    python("-c", call, cwd=source, **env)


def install(python: Python, wheel: Path, site: Path) -> Path:
    """Install one wheel into the folder `site`, offline."""
    python(*PIP, "install", *OFFLINE, "--target", site, wheel, cwd=site.parent)
    return site


PIP = ("-m", "pip", "-q", "--disable-pip-version-check")
OFFLINE = ("--no-deps", "--no-index")
