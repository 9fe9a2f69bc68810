from __future__ import annotations

import os

import pytest

from robometer_rl.data.reading import SourceError
from robometer_rl.formats.destinations import choose_cameras, default_output, fingerprint


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
