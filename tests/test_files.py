from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robometer_rl.files import (
    OutsideError,
    append_line,
    check_destination,
    check_outside,
    check_regular,
    drop_half_line,
    inside,
    new_directory,
    new_file,
    new_files,
    remove_all_left_over,
    whole_lines,
    write_bytes,
    write_text,
)
from tests.limits import files_up_to


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), new_file(path) as partial:  # noqa: PT012
        assert partial.name == path.name  # libraries choose a format by the ending
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    with new_file(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_nothing_is_left_after_an_interruption(tmp_path, error):
    with pytest.raises(error), new_file(tmp_path / "file") as partial:  # noqa: PT012
        partial.write_text("half")
        raise error
    assert names(tmp_path) == []


@pytest.mark.parametrize("call", ["mkdir", "flock", "rmtree"])
def test_nothing_is_left_where_ctrl_c_comes_while_the_hidden_directory_is_made_or_removed(tmp_path, monkeypatch, call):
    owner = {"mkdir": Path, "flock": fcntl, "rmtree": shutil}[call]
    original, calls = getattr(owner, call), []

    def interrupted(*args: Any, **options: Any) -> None:
        calls.append(call)
        if len(calls) > 1 or call != "rmtree":
            original(*args, **options)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(owner, call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "file.txt", "text")
    monkeypatch.undo()
    assert names(tmp_path) in ([], ["file.txt"])


@files_up_to(1000)
def test_a_full_disk_leaves_what_was_there_and_an_error_that_names_it(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with pytest.raises(OSError, match=str(path)):
        write_bytes(path, bytes(2000))
    with pytest.raises(OSError, match=r"out/deep/file"), new_directory(tmp_path / "out") as directory:  # noqa: PT012
        (directory / "deep").mkdir()
        (directory / "deep" / "file").touch()
        os.truncate(directory / "deep" / "file", 2000)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_errors_of_reading_are_not_taken_for_errors_of_writing(tmp_path):
    with pytest.raises(FileNotFoundError, match="source"), new_file(tmp_path / "file") as partial:
        partial.write_bytes((tmp_path / "source").read_bytes())


@pytest.mark.parametrize("missing", [False, True])
def test_what_a_link_points_to_is_written_and_the_link_is_kept(tmp_path, missing):
    disk = tmp_path / "disk"
    disk.mkdir()
    if not missing:
        (disk / "file").write_text("old")
    link = tmp_path / "link"
    link.symlink_to(disk / "file")
    write_text(link, "new")
    assert link.is_symlink()
    assert (disk / "file").read_text() == "new"
    assert names(disk) == ["file"]


def test_another_name_of_a_file_keeps_its_content(tmp_path):
    write_text(tmp_path / "file", "old")
    os.link(tmp_path / "file", tmp_path / "backup")
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "backup").read_text() == "old"


def test_permissions_are_those_of_the_file_before_or_of_the_process(tmp_path):
    path = tmp_path / "file"
    mask = os.umask(0o027)
    try:
        write_text(path, "x")
        assert path.stat().st_mode & 0o777 == 0o640
        path.chmod(0o604)
        write_text(path, "y")
        assert path.stat().st_mode & 0o777 == 0o604
    finally:
        os.umask(mask)


def test_places_where_no_file_can_be_are_refused_at_once(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "loop", tmp_path / "none" / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=str(path)), new_file(path):
            pytest.fail("there is no place to write to")
    assert names(tmp_path) == ["file", "loop"]


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    link = tmp_path / "figure.png"
    link.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"figure\.png"):
        write_text(link, "x")
    link.unlink()
    link.symlink_to("/dev/null")
    write_text(link, "x")
    assert link.is_symlink()
    assert Path("/dev/null").is_char_device()


def test_a_pipe_gets_the_whole_content(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "all of it")
    reader.join()
    assert read == ["all of it"]


def test_long_names_can_be_written(tmp_path):
    for name in ("x" * 255, "é" * 127):
        write_text(tmp_path / name, "x")
        assert (tmp_path / name).read_text() == "x"


def test_several_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "file"
    with new_file(path) as first, new_file(path) as second:
        first.write_text("first")
        second.write_text("second")
        assert first != second
    assert path.read_text() == "first"  # the block that ends last
    assert names(tmp_path) == ["file"]


def test_what_killed_writers_left_goes_and_what_others_write_stays(tmp_path):
    assert subprocess.run([sys.executable, "-c", WRITER, str(tmp_path)]).returncode == -signal.SIGKILL
    (tmp_path / ".notes.partial").mkdir()
    (tmp_path / ".notes.partial" / "mine").write_text("not of a writer")
    with new_file(tmp_path / "other") as partial:
        partial.write_text("meanwhile")
        remove_all_left_over(tmp_path)
        assert names(tmp_path) == [".notes.partial", ".other.partial"]
    assert names(tmp_path) == [".notes.partial", "other"]


WRITER = """
import os, signal, sys
from robometer_rl.files import new_directory, new_file
with new_file(sys.argv[1] + "/file") as file, new_directory(sys.argv[1] + "/out") as out:
    file.write_text("half")
    (out / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_has_left_is_removed_by_the_next_one(tmp_path):
    killed = subprocess.run([sys.executable, "-c", WRITER, str(tmp_path)])
    assert killed.returncode == -signal.SIGKILL
    assert names(tmp_path) == [".file.partial", ".out.partial"]
    write_text(tmp_path / "file", "new")
    with new_directory(tmp_path / "out") as directory:
        (directory / "new").write_text("new")
    assert names(tmp_path) == ["file", "out"]
    assert names(tmp_path / "out") == ["new"]


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_what_is_called_like_a_hidden_directory_and_is_none_is_left_alone(tmp_path, kind):
    theirs = tmp_path / ".out.partial"
    if kind == "file":
        theirs.write_text("theirs")
    elif kind == "link":
        theirs.symlink_to(tmp_path)
    else:
        theirs.mkdir()
        (theirs / "thesis.tex").write_text("theirs")
    write_text(tmp_path / "out", "x")
    assert names(tmp_path) == [".out.partial", "out"]
    assert theirs.is_symlink() if kind == "link" else next(theirs.parent.rglob("thesis.tex"), theirs).read_text()


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), new_directory(tmp_path / "out") as directory:  # noqa: PT012
        (directory / "half").write_text("x")
        raise RuntimeError
    assert names(tmp_path) == []
    with new_directory(tmp_path / "deep" / "out") as directory:
        (directory / "folder").mkdir()
        (directory / "folder" / "file").write_text("x")
        assert not (tmp_path / "deep" / "out").exists()
    assert names(tmp_path / "deep") == ["out"]
    assert (tmp_path / "deep" / "out" / "folder" / "file").read_text() == "x"


def test_a_directory_does_not_replace_what_came_meanwhile(tmp_path):
    with pytest.raises(FileExistsError, match="came to be"), new_directory(tmp_path / "out"):
        (tmp_path / "out").mkdir()
    assert names(tmp_path) == ["out"]


def test_files_that_belong_together_are_replaced_together(tmp_path):
    with new_files(tmp_path / "model", last="config") as directory:
        (directory / "config").write_text("1")
        (directory / "weights").write_text("1")
    (tmp_path / "model" / "notes").write_text("mine")
    with pytest.raises(RuntimeError), new_files(tmp_path / "model", last="config") as directory:  # noqa: PT012
        (directory / "weights").write_text("2")
        raise RuntimeError
    assert (tmp_path / "model" / "weights").read_text() == "1"
    with new_files(tmp_path / "model", last="config") as directory:
        (directory / "config").write_text("2")
        (directory / "weights").write_text("2")
    found = {path.name: path.read_text() for path in (tmp_path / "model").iterdir()}
    assert found == {"config": "2", "weights": "2", "notes": "mine"}


@files_up_to(1000)
def test_an_error_among_files_that_belong_together_names_the_file(tmp_path):
    with pytest.raises(OSError, match="model"), new_files(tmp_path / "model", last="config") as directory:
        (directory / "weights").write_bytes(bytes(2000))
    assert names(tmp_path / "model") == []


@files_up_to(1000)
def test_a_line_is_added_whole_or_not_at_all(tmp_path):
    path = tmp_path / "record.jsonl"
    append_line(path, "first")
    with pytest.raises(OSError, match=r"record\.jsonl"):
        append_line(path, "x" * 2000)
    append_line(path, "second")
    assert path.read_text() == "first\nsecond\n"
    path.write_text("first\nsecond\nhal")
    assert whole_lines(path) == ["first", "second"]


def test_a_destination_is_checked_without_leaving_a_trace(tmp_path):
    check_destination(tmp_path / "deep" / "out")
    assert names(tmp_path / "deep") == []
    (tmp_path / "out").write_text("x")
    check_destination(tmp_path / "out", replace=True)
    with pytest.raises(FileExistsError, match="there already"):
        check_destination(tmp_path / "out")
    with pytest.raises(OSError, match="out"):
        check_destination(tmp_path / "out" / "below")
    os.link(tmp_path / "out", tmp_path / "other")
    with pytest.raises(OSError, match="2 names"):
        check_destination(tmp_path / "out", replace=True)


def test_what_would_be_waited_for_is_not_taken_for_a_file(tmp_path):
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("file")
    assert check_regular(tmp_path / "link").st_size == 4
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "/dev/zero"):
        with pytest.raises(OSError, match="a pipe, a socket or a device; expected a file"):
            check_regular(tmp_path / name)
    with pytest.raises(IsADirectoryError):
        check_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        check_regular(tmp_path / "nothing")


def test_a_copy_of_a_folder_may_not_be_in_it(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    for output in (tmp_path / "out", tmp_path / "link" / "out"):
        with pytest.raises(OSError, match="elsewhere"):
            check_outside(output, tmp_path)
    check_outside(tmp_path.with_name("out"), tmp_path)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/../../secret", "", "..", "a\0b", "link", "folder/secret"]
)
def test_names_that_lead_out_of_their_folder_are_refused(tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_text("x")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "folder").symlink_to(tmp_path)
    with pytest.raises(OutsideError, match="folder"):
        inside(folder, name)


def test_names_in_their_folder_are_taken(tmp_path):
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "link").symlink_to(folder / "deep" / "file")
    (tmp_path / "alias").symlink_to(folder)
    for root in (folder, tmp_path / "alias"):
        for name in ("deep/file", "./deep/file", "link", "a..b"):
            assert inside(root, name) == root / name


def test_a_snapshot_in_the_cache_of_the_hub_consists_of_links_to_its_blobs(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    (snapshot / "deep").mkdir(parents=True)
    (blobs / "123").write_text("x")
    for name in ("file", "deep/file"):
        (snapshot / name).symlink_to(blobs / "123")
        assert inside(snapshot, name).read_text() == "x"
    assert inside(snapshot / "deep", "file").read_text() == "x"
    (snapshot / "secret").symlink_to(tmp_path / "secret")
    with pytest.raises(OutsideError):
        inside(snapshot, "secret")


@given(st.text(alphabet="./ab", max_size=12))
def test_no_name_leads_out(name):
    folder = Path("/somewhere/folder")
    try:
        found = inside(folder, name)
    except OutsideError:
        return
    assert Path(os.path.normpath(found)).is_relative_to(folder)


def test_half_a_last_line_goes_before_another_is_added(tmp_path):
    path = tmp_path / "lines.jsonl"
    drop_half_line(path)
    assert not path.exists()
    for content, kept in ((b"", b""), (b"whole\n", b"whole\n"), (b"whole\nhal", b"whole\n"), (b"hal", b"")):
        path.write_bytes(content)
        drop_half_line(path)
        assert path.read_bytes() == kept
