"""Files are written whole or not at all, and folders are for one at a time."""

import os
import stat
import subprocess
import sys

import pytest

from vitalfew._disk import alone, write_atomically, write_together


def test_files_are_written_all_or_none(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError, match="nowhere"):
        write_together({tmp_path / "a": "new", tmp_path / "nowhere" / "b": "new"})
    with pytest.raises(UnicodeEncodeError):
        write_together({tmp_path / "a": "new", tmp_path / "b": "\ud800"})
    assert (tmp_path / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_files_are_as_private_as_the_user_wants(tmp_path):
    before = os.umask(0o077)
    try:
        write_atomically(tmp_path / "run.json", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run.json").stat().st_mode) == 0o600


def test_written_whole(tmp_path):
    path = tmp_path / "run.json"
    write_atomically(path, "first ü")
    write_atomically(path, "second ü")
    assert path.read_text(encoding="utf-8") == "second ü"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_failed_write_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_atomically(path, "first")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("vitalfew._disk.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "second")
    monkeypatch.undo()
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        write_atomically(tmp_path / "nowhere" / "run.json", "x")


@pytest.mark.parametrize("content", [b"", b"\xff\x00", "", "ü\n"])
def test_what_is_written_is_what_is_there(tmp_path, content):
    write_atomically(tmp_path / "a", content)
    expected = content.encode() if isinstance(content, str) else content
    assert (tmp_path / "a").read_bytes() == expected


@pytest.mark.skipif(os.name != "posix", reason="locks are those of POSIX")
def test_another_process_waits(tmp_path):
    code = (
        "import sys; from pathlib import Path; from vitalfew._disk import alone\n"
        "print('ready', flush=True)\n"
        "with alone(Path(sys.argv[1])): print('in', flush=True)\n"
    )
    with alone(tmp_path):
        other = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE
        )
        assert other.stdout.readline() == b"ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.3)
    assert other.communicate(timeout=60)[0] == b"in\n"
    assert other.returncode == 0
