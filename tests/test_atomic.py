"""Files appear whole, all together, or not at all."""

from pathlib import Path

import pytest
from safetensors import SafetensorError

from disca_rt.atomic import write_all, write_whole


def write(text: str):
    return lambda partial: partial.write_text(text)


def fail_after_writing(partial: Path) -> None:
    partial.write_text("half")
    raise SafetensorError("No space left on device")


def test_every_file_is_there_and_nothing_else(tmp_path: Path) -> None:
    paths = [tmp_path / "new" / "folder" / "a.txt", tmp_path / "b.txt"]
    write_all({path: write(path.name) for path in paths})
    assert [path.read_text() for path in paths] == ["a.txt", "b.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.txt", "new"]
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in paths)


def test_one_failure_leaves_no_file_and_no_folder(tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("before")
    writers = {
        kept: write("after"),
        tmp_path / "new" / "folder" / "a.txt": write("a"),
        tmp_path / "b.txt": fail_after_writing,
    }
    with pytest.raises(OSError, match=r"cannot write .*b\.txt: No space left on device"):
        write_all(writers)
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]
    assert kept.read_text() == "before"


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(partial: Path) -> None:
        partial.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "sub" / "a.txt", interrupted)
    assert list(tmp_path.iterdir()) == []
