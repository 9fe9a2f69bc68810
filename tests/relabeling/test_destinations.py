from __future__ import annotations

import os

import pytest

from robometer_rl.data.sources.reading import SourceError
from robometer_rl.relabeling.destinations import (
    check_destination,
    choose_cameras,
    default_output,
    fingerprint,
    new_directory,
    new_file,
)


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), new_directory(tmp_path / "out") as directory:  # noqa: PT012
        (directory / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with new_directory(tmp_path / "out") as directory:
        (directory / "deep").mkdir()
        (directory / "deep" / "file").write_text("x")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "deep" / "file").read_text() == "x"


def test_what_a_killed_run_has_left_is_replaced(tmp_path):
    left = tmp_path / ".out.partial"
    left.mkdir()
    (left / "old").write_text("x")
    with new_directory(tmp_path / "out") as directory:
        (directory / "new").write_text("x")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]


def test_a_directory_does_not_replace_what_came_meanwhile(tmp_path):
    with pytest.raises(FileExistsError, match="came to be"), new_directory(tmp_path / "out"):
        (tmp_path / "out").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), new_file(path) as partial:  # noqa: PT012
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    with new_file(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_destination_is_checked_without_leaving_a_trace(tmp_path):
    check_destination(tmp_path / "deep" / "out")
    assert list((tmp_path / "deep").iterdir()) == []
    (tmp_path / "out").write_text("x")
    check_destination(tmp_path / "out", replace=True)
    with pytest.raises(FileExistsError, match="there already"):
        check_destination(tmp_path / "out")
    with pytest.raises(OSError, match="out"):
        check_destination(tmp_path / "out" / "below")


def test_a_fingerprint_tells_changes_of_files_keys_and_facts(tmp_path):
    path = tmp_path / "file"
    path.write_text("x")
    os.utime(path, ns=(0, 0))
    before = fingerprint(["a", "b"], [path], 1)
    assert fingerprint(["a", "b"], [path], 1) == before
    assert fingerprint(["ab"], [path], 1) != before
    assert fingerprint(["a", "b"], [path], 2) != before
    os.utime(path, ns=(0, 1))
    assert fingerprint(["a", "b"], [path], 1) != before


def test_cameras_are_chosen_by_name():
    assert choose_cameras("x", ("a",), ()) == ("a",)
    assert choose_cameras("x", ("a", "b"), ("b", "a", "b")) == ("b", "a")
    for asked in ((), ("c",)):
        with pytest.raises(SourceError, match="expected one of a, b"):
            choose_cameras("x", ("a", "b"), asked)


def test_outputs_are_named_after_their_dataset(tmp_path):
    (tmp_path / "data.v2").mkdir()
    assert default_output(tmp_path / "data.v2").name == "data.v2-robometer"
    assert default_output(tmp_path / "buffer.pkl").name == "buffer-robometer.pkl"
