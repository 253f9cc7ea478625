"""Device nodes of NVIDIA GPUs: a look without PyTorch or Triton, which must not be imported yet."""

from pathlib import Path


def gpu_nodes(folder: Path = Path("/dev")) -> list[Path]:
    """Nodes of all GPUs; a container on a host of eight may have the seventh alone."""
    return sorted(folder.glob("nvidia[0-9]*"))
