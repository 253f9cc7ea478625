"""Settings of every test: one thread per worker, no hypothesis deadlines, marker and option."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from gpu_nodes import gpu_nodes

if "PYTEST_XDIST_WORKER" in os.environ:  # before PyTorch is imported; subprocesses inherit it
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if not gpu_nodes():  # before Triton is imported: kernels run in its interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The cores are shared, so a deadline would measure the neighbours.
settings.register_profile("disca_rt", deadline=None, print_blob=True)
settings.load_profile("disca_rt")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sanitize", action="store_true", help="the C++ tests under ASan and UBSan")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ids of groups: pytest 9.2 no longer reads them where pytest-xdist 3.8 writes them."""
    for item in items:
        if getattr(item, "_nodeid", item.nodeid) != item.nodeid:
            item._id = type(item.id).parse(item._nodeid)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder with the authors' reference vectors: `hyvideo10/` and `hyvideo15/`."""
    return Path(__file__).parent / "golden"
