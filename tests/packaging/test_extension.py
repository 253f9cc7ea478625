"""A build of the C++ extensions says in one line what it lacks; one process runs without them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BUILD = (
    "import runpy, sys; sys.argv = ['setup.py', '-q', *sys.argv[1:]]; runpy.run_path('setup.py')"
)


def run(*args: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    env = os.environ | {"PYTHONPATH": ""} | env
    return subprocess.run([sys.executable, *args], cwd=cwd, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("before", "env", "message"),
    [
        (
            "",
            {"CXX": "no-such-compiler"},
            "needs a C++ compiler, found no no-such-compiler (on Debian and Ubuntu: "
            "apt install g++), or name another: CXX=...",
        ),
        (
            "import sysconfig; sysconfig.get_path = lambda *_, **__: '/nowhere'; ",
            {},
            "needs Python's headers, found no /nowhere/Python.h (on Debian and Ubuntu: "
            "apt install python3-dev)",
        ),
        (
            "import sys; sys.modules['torch'] = None; ",
            {},
            "the C++ extensions are built against the PyTorch it will run with: pip install torch "
            "setuptools ninja, then install with --no-build-isolation",
        ),
    ],
    ids=["compiler", "headers", "torch"],
)
def test_what_a_build_lacks_is_named(
    before: str, env: dict[str, str], message: str, root: Path, tmp_path: Path
) -> None:
    done = run("-c", before + BUILD, "build_ext", "-b", tmp_path, "-t", tmp_path, cwd=root, **env)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"setup.py: {message}"
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def unbuilt(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package and no extension."""
    folder = tmp_path_factory.mktemp("unbuilt")
    shutil.copytree(root / "disca_rt", folder / "disca_rt", ignore=shutil.ignore_patterns("*.so"))
    return folder


def test_one_process_generates_without_it(unbuilt: Path) -> None:
    small = ("--size", "32x24x5", "--steps", "2", "--policy", "full", "--out", "small.mp4")
    done = run("-m", "disca_rt", "generate", "a red circle moving left", *small, cwd=unbuilt)
    assert done.returncode == 0, done.stderr
    assert (unbuilt / "small.mp4").exists()


@pytest.mark.slow
def test_several_ranks_say_how_to_build_it(unbuilt: Path) -> None:
    ranks = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = run(*ranks, "-m", "disca_rt", "generate", "a red circle moving left", cwd=unbuilt)
    assert done.returncode != 0
    message = (
        "disca-rt: error: several ranks need the C++ extension disca_rt.parallel._native, which is "
        "not built for this Python: pip install --no-build-isolation . in the source folder "
        "(make does it too)"
    )
    assert done.stderr.splitlines().count(message) == 2, done.stderr
