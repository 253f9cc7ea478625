"""Files appear whole, all together, or not at all."""

import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from disca_rt.atomic import check_writable, write_all, write_whole


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


def test_two_jobs_with_one_path_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"

    def write_around_another(partial: Path) -> None:
        partial.write_text("first")
        write_whole(path, write("second"))

    write_whole(path, write_around_another)
    assert path.read_text() == "first", "the last to end"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def longest(suffix: str) -> str:
    return "y" * (255 - len(suffix)) + suffix


def test_the_longest_name_there_is_can_be_written(tmp_path: Path) -> None:
    for path in (tmp_path / longest(".mp4"), tmp_path / "new" / ("é" * 125 + ".mp4")):
        check_writable(path)
        assert list(tmp_path.glob("new")) == []
        write_whole(path, write("whole"))
        assert path.read_text() == "whole"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken/v.mp4", "cannot be written.*No such file"),
        ("broken/deep/v.mp4", "cannot be written.*No such file"),
        ("file/v.mp4", "cannot be written.*Not a directory"),
        ("y" + longest(".mp4"), "cannot be written.*File name too long"),
        ("new/" + "y" * 256 + "/v.mp4", "cannot be written.*File name too long"),
        ("folder", "is a folder: .*; name a file in it"),
        ("link", "is a folder: .*; name a file in it"),
        ("pipe", "cannot be written.*no ordinary file"),
        ("shared/v.mp4", "cannot be written.*another user's, in a shared folder"),
    ],
)
def test_what_could_not_be_written_is_said_before(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    (tmp_path / "shared" / "v.mp4").touch()
    there = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(OSError, match=message):
        check_writable(tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == there


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(partial: Path) -> None:
        partial.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "sub" / "a.txt", interrupted)
    assert list(tmp_path.iterdir()) == []
