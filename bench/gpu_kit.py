"""Kit for a rented GPU, made on a machine without one: `python -m bench.gpu_kit`, or make gpu-kit.

Run with the Python, PyTorch and Triton of the machine that will use it. Into .gpu go wheels that
such a machine may lack, Triton's cache of every launch and the built extensions: `bench/gpu.sh`
takes them from there. out/gpu-kit.tar.gz has .gpu and the tree without ladder/, which nothing there
reads and which is the larger half.
"""

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import triton

from disca_rt.units import byte_text

ROOT = Path(__file__).parents[1]
KIT, ARCHIVE = ROOT / ".gpu", ROOT / "out" / "gpu-kit.tar.gz"
WHEELS = "fa3-fwd==0.0.3", "nvidia-cudnn-frontend==1.18.0", "rich==15.0.0"
LEFT_OUT = "ladder/"
LARGEST = 64 * 2**20  # bytes of tree and kit together, before they are packed


def main() -> None:
    shutil.rmtree(KIT, ignore_errors=True)
    KIT.mkdir()
    python = sys.executable
    wheels = "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", KIT / "wheels"
    _run(python, *wheels, *WHEELS)
    with TemporaryDirectory() as folder:
        _run(python, "-m", "bench.triton_cache", "fill", folder)
        with tarfile.open(KIT / "cache.tgz", "w:gz") as tar:
            tar.add(folder, ".")
    build = "setup.py", "-q", "build_ext", "--build-lib", KIT / "built"
    _run(python, *build, "--build-temp", ROOT / "build" / "gpu-kit")
    versions = {"python": sys.version, "torch": torch.__version__, "triton": triton.__version__}
    (KIT / "about.json").write_text(json.dumps(versions, indent=1) + "\n")
    files = [*_tree(), *(path for path in KIT.rglob("*") if path.is_file())]
    size = check_size(files)
    print(f"{KIT}: {byte_text(size)} with the tree, in {len(files)} files")
    pack(files, ARCHIVE)
    print(f"wrote {ARCHIVE}: {byte_text(ARCHIVE.stat().st_size)}")


def _run(*command: str | Path) -> None:
    subprocess.run([str(each) for each in command], cwd=ROOT, check=True)


def _tree() -> list[Path]:
    """Files of the project, new ones included, without what no GPU machine reads."""
    listed = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.check_output(listed, cwd=ROOT, text=True).rstrip("\0").split("\0")
    paths = [ROOT / name for name in names if not name.startswith(LEFT_OUT)]
    return [path for path in paths if path.is_symlink() or path.is_file()]


def check_size(files: Sequence[Path]) -> int:
    """Bytes of `files` together; SystemExit names the largest where they are too many."""
    sizes = {path: path.lstat().st_size for path in files}
    total = sum(sizes.values())
    if total > LARGEST:
        largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:5]
        said = ", ".join(f"{path.name} {byte_text(sizes[path])}" for path in largest)
        sys.exit(f"gpu_kit: {byte_text(total)} is over {byte_text(LARGEST)}; the largest: {said}")
    return total


def pack(files: Sequence[Path], archive: Path) -> None:
    """Writes `files` into the archive, under disca_rt/ by their places in the tree."""
    archive.parent.mkdir(exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        for path in files:
            tar.add(path, Path("disca_rt") / path.relative_to(ROOT))


if __name__ == "__main__":
    main()
