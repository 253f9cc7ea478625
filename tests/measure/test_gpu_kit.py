"""The kit for a rented GPU: Triton's cache of launches, moved, and what is packed."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from bench import gpu_kit
from bench.triton_cache import FEW, move

ROOT = Path(__file__).parents[2]
# Everything is there already, so that a second filling compiles nothing.
FOUND = "from triton import knobs; knobs.compilation.listener = lambda **k: print(k['cache_hit'])"


def filled(folder: Path, before: str = "") -> list[str]:
    """Lines that filling `folder` prints, in a process where kernels are not interpreted."""
    code = f"{before}\nimport runpy; runpy.run_module('bench.triton_cache', run_name='__main__')"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, "fill", str(folder), "--quick"],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_cache_that_was_moved_has_every_launch(tmp_path: Path) -> None:
    assert filled(tmp_path / "made")[-1].endswith(f": {FEW} kernels")
    shutil.move(tmp_path / "made", tmp_path / "used")
    move(tmp_path / "used")
    *cached, _ = filled(tmp_path / "used", FOUND)
    assert cached == FEW * ["True"]


def test_a_kit_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large.whl").write_bytes(bytes(2000))
    (tmp_path / "small.py").write_bytes(bytes(10))
    files = sorted(tmp_path.iterdir())
    assert gpu_kit.check_size(files) == 2010
    monkeypatch.setattr(gpu_kit, "LARGEST", 2000)
    with pytest.raises(SystemExit, match=r"over .*the largest: large\.whl 2"):
        gpu_kit.check_size(files)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the list of files is git's")
def test_files_are_packed_by_their_place_and_the_ladder_is_left_out(tmp_path: Path) -> None:
    tree = gpu_kit._tree()
    assert ROOT / "bench" / "gpu.sh" in tree
    assert ROOT / "disca_rt" / "kernels" in tree, "the link"
    assert not any("ladder" in path.relative_to(ROOT).parts[0] for path in tree)
    gpu_kit.pack([ROOT / "bench" / "gpu.sh"], tmp_path / "kit.tar.gz")
    with tarfile.open(tmp_path / "kit.tar.gz") as tar:
        assert tar.getnames() == ["disca_rt/bench/gpu.sh"]
