"""Files: text that is read line by line, and text and figures that are written atomically."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
from matplotlib.figure import Figure
from project import ROOT

from asr.errors import DataError, FileError
from asr.files import (
    check_writable,
    read_lines,
    remove_leftovers,
    save_figure,
    write_atomically,
    write_text,
)


class TestReadLines:
    def test_lines_with_their_numbers(self, tmp_path: Path) -> None:
        path = tmp_path / "x.txt"
        path.write_bytes("\ufeffone\r\n\r\nthré\u2028e \nlast".encode())
        raw: list[bytes] = []
        lines = list(read_lines(path, DataError, on_line=raw.append))
        assert lines == [(1, "one"), (2, ""), (3, "thré\u2028e "), (4, "last")]
        assert b"".join(raw) == path.read_bytes()

    def test_what_is_not_utf_8(self, tmp_path: Path) -> None:
        path = tmp_path / "x.txt"
        path.write_bytes(b"one\ncaf\xe9\n")
        with pytest.raises(DataError) as caught:
            list(read_lines(path, DataError, "name a list of words"))
        assert str(caught.value) == f"{path}, line 2 is not UTF-8 text; name a list of words"
        assert list(read_lines(path, DataError, undecodable="replace"))[1] == (2, "caf\ufffd")

    def test_a_line_without_end(self) -> None:
        with pytest.raises(DataError, match=r"^/dev/zero, line 1 is longer than"):
            list(read_lines("/dev/zero", DataError))

    def test_what_cannot_be_opened(self, tmp_path: Path) -> None:
        for path, reason in ((tmp_path / "x", "No such file or directory"), (tmp_path, "Is a dir")):
            with pytest.raises(DataError, match=rf"^{path} cannot be read \({reason}"):
                list(read_lines(path, DataError))


def test_write_text_writes_every_name(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "x.txt", "é \udcff\n")
    assert (tmp_path / "new" / "x.txt").read_bytes() == "é \\udcff\n".encode()
    with pytest.raises(FileError, match="is a folder"):
        write_text(tmp_path / "new", "")


def test_save_figure(tmp_path: Path) -> None:
    save_figure(tmp_path / "x.png", Figure(), dpi=50)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_leftovers_of_a_killed_process_are_removed_and_others_stay(tmp_path: Path) -> None:
    code = f"""
import os, pathlib, signal
from asr.files import write_atomically
write_atomically({str(tmp_path / "x.txt")!r}, lambda file: os.kill(os.getpid(), signal.SIGKILL))
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1

    def write(file: IO[bytes]) -> None:
        remove_leftovers(tmp_path)
        file.write(b"y")

    write_atomically(tmp_path / "y.txt", write)
    assert [path.name for path in tmp_path.iterdir()] == ["y.txt"]


@pytest.mark.parametrize("name", ["", ".", "..", "/", "folder"])
def test_a_folder_is_no_file_to_write(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for write in (check_writable, lambda path: write_text(path, "text")):
        with pytest.raises(FileError, match="is a folder; specify a file"):
            write(name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
