"""Where kernels run interpreted: only where no GPU has a node, whatever its number."""

from pathlib import Path

from gpu_nodes import gpu_nodes


def test_a_gpu_of_any_number_is_seen(tmp_path: Path) -> None:
    for name in ("nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert gpu_nodes(tmp_path) == []
    (tmp_path / "nvidia7").touch()
    assert [node.name for node in gpu_nodes(tmp_path)] == ["nvidia7"]
