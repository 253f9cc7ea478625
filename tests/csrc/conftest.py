"""C++ tests: programs of our own sources, compiled by the system's compiler and run.

With `--sanitize` under AddressSanitizer, with its search for leaks, and UBSan; the first error ends
a program. PyTorch's libraries are not instrumented, and need no suppressions.
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLAIN = ("-O1",)
SANITIZED = (
    *("-O1", "-g", "-fno-omit-frame-pointer"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
)

RunCpp = Callable[..., str]


@pytest.fixture
def run_cpp(request: pytest.FixtureRequest, tmp_path: Path) -> RunCpp:
    """`run_cpp(*sources, flags=...)` makes a program of `sources`, runs it, returns its stdout.

    All are one translation unit: PyTorch's headers take fifteen seconds to read.
    """
    mode = SANITIZED if request.config.getoption("--sanitize") else PLAIN

    def run(*sources: str, flags: Sequence[str] = ()) -> str:
        program = tmp_path / Path(sources[0]).stem
        whole = tmp_path / f"all_of_{program.name}.cpp"
        whole.write_text("".join(f'#include "{ROOT / source}"\n' for source in reversed(sources)))
        checked(*compiler(), "-std=c++20", "-Wall", "-Wextra", *mode, whole, "-o", program, *flags)
        return checked(program)

    return run


def compiler() -> list[str]:
    command = shlex.split(os.environ.get("CXX", "c++"))
    if shutil.which(command[0]) is None:
        pytest.fail(
            f"needs a C++ compiler, found no {command[0]} (on Debian and Ubuntu: apt install g++), "
            "or name another: CXX=...",
            pytrace=False,
        )
    return command


def checked(*command: str | Path) -> str:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-10_000:]
    return done.stdout
