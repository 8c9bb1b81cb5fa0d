"""Files that are written whole or not at all, and files that cannot be read."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import (
    only_writer,
    read_json,
    read_once,
    sweep,
    whole_file,
    whole_folder,
    write_json,
    write_text,
)
from segrefinery.core.stopping import Stopped


def test_what_was_written_is_read_back(tmp_path):
    write_json(tmp_path / "new" / "a.json", {"name": "b\udcff"})
    assert read_json(tmp_path / "new" / "a.json") == {"name": "b\udcff"}
    write_text(tmp_path / "names.txt", "b\udcff")
    assert (tmp_path / "names.txt").read_bytes() == b"b\xff"


def test_a_library_cannot_close_the_files_of_a_folder_to_others(tmp_path):
    with whole_folder(tmp_path / "model") as folder:
        (folder / "deeper").mkdir()
        (folder / "open").touch()
        for name in ("closed", "deeper/closed"):
            (folder / name).touch(0o600)
    rights = [(tmp_path / "model" / name).stat().st_mode for name in ("open", "closed", "deeper/closed")]
    assert len(set(rights)) == 1


def test_an_error_on_the_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    write_text(path, "old")
    for error in (OSError(errno.ENOSPC, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")):
        with pytest.raises(SegRefineryError, match=r"a: cannot be written.*--resume"):
            write_and_fail(path, error)
    with pytest.raises(KeyboardInterrupt):
        write_and_fail(path, KeyboardInterrupt())
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


class Failing:
    """A file whose disk is full, or where Ctrl-C comes, while torch writes to it."""

    def __init__(self, file, error):
        self.file, self.error, self.writes = file, error, 0

    def write(self, content):
        self.writes += 1
        if self.writes > 2:
            raise self.error
        return self.file.write(content)

    def flush(self):
        self.file.flush()


def save_and_fail(path, error):
    try:
        raise KeyError("handled")
    except KeyError:
        with whole_file(path) as file:
            torch.save({"a": torch.zeros(10_000)}, Failing(file, error))


def test_what_stopped_torch_is_said_and_not_what_torch_makes_of_it(tmp_path):
    with pytest.raises(SegRefineryError, match=r"a: cannot be written \(No space left on device\); what was there"):
        save_and_fail(tmp_path / "a", OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(Stopped):
        save_and_fail(tmp_path / "a", Stopped(signal.SIGTERM))
    assert not list(tmp_path.iterdir())


def write_and_fail(path, error):
    with whole_file(path) as file:
        file.write(b"new")
        raise error


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SegRefineryError, match=r"file.a: cannot be written"):
        write_text(tmp_path / "file" / "a", "")


def test_a_name_as_long_as_names_may_be_is_written(tmp_path):
    write_text(tmp_path / ("a" * 255), "")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_killed_writer_leaves_the_old_file_and_its_remains_are_swept(tmp_path):
    path = tmp_path / "a"
    write_text(path, "old")
    kill(stopped_writer(path))
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    sweep(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def stopped_writer(path: Path, how: str = "whole_file") -> subprocess.Popen[bytes]:
    """A process in the midst of a write."""
    code = (
        f"import sys, time; from pathlib import Path; from segrefinery.core.files import {how}\n"
        f"with {how}(Path(sys.argv[1])): print('there', flush=True); time.sleep(60)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, env=os.environ)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"there\n"
    return writer


def kill(writer: subprocess.Popen[bytes]) -> None:
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert writer.stdout is not None
    writer.stdout.close()


@pytest.mark.parametrize("how", ["whole_file", "whole_folder"])
def test_who_writes_in_a_folder_removes_what_the_dead_left_there_and_nothing_of_the_living(tmp_path, how):
    writer = stopped_writer(tmp_path / "a", how)
    (remains,) = tmp_path.iterdir()
    sweep(tmp_path)
    assert remains.exists()
    kill(writer)
    write_text(tmp_path / "b", "new")
    assert [each.name for each in tmp_path.iterdir()] == ["b"]


def test_a_folder_has_one_writer_until_it_ends_or_dies(tmp_path):
    writer = stopped_writer(tmp_path, "only_writer")
    said = "another process is writing there; wait for its end, or name another"
    with pytest.raises(SegRefineryError, match=said), only_writer(tmp_path):
        pass
    kill(writer)
    with only_writer(tmp_path):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_json_that_cannot_be_read_is_one_line(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(SegRefineryError, match=r"a\.json: cannot be read \(.*\); mend it$") as caught:
        read_json(path, "mend it")
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_is_read_once_as_long_as_it_stays_as_it_is(tmp_path):
    read = []

    @read_once(2)
    def words(path: Path, more: str = "") -> str:
        read.append(path.name)
        return path.read_text() + more

    file = tmp_path / "a"
    with pytest.raises(FileNotFoundError):
        words(file)
    file.write_text("one")
    assert [words(file), words(file), words(file, "!")] == ["one", "one", "one!"]
    file.write_text("other")
    assert words(file) == "other"
    assert len(read) == 4
