"""C++ tests of the scheduler, against the installed PyTorch's libraries."""

import pytest
from torch.utils.cpp_extension import include_paths, library_paths


@pytest.mark.slow
@pytest.mark.timeout(900)  # compiled in half a minute, on crowded cores in several
def test_scheduler(run_cpp) -> None:
    includes = [f"-isystem{path}" for path in include_paths()]
    folders = [flag for path in library_paths() for flag in (f"-L{path}", f"-Wl,-rpath,{path}")]
    sources = (
        f"{name}.cpp" for name in ("tests/csrc/test_scheduler", "csrc/partition", "csrc/scheduler")
    )
    done = run_cpp(*sources, flags=[*includes, *folders, "-ltorch_cpu", "-lc10"])
    assert done.endswith(" checks\n")
