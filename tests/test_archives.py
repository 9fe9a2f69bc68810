from __future__ import annotations

import io
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robometer_rl.archives import ArchiveError, read_arrays, read_members
from robometer_rl.video import VideoError, read_recording

ARRAYS = {
    "frames": np.random.default_rng(0).integers(0, 255, (5, 8, 8, 3), np.uint8),
    "rewards": np.arange(4.0),
    "task": np.array("öffne die Schublade"),
    "none": np.zeros((0, 3)),
    "turned": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "fields": np.zeros(2, [("a", "f4"), ("é", "i4")]),
}


def archive(path: Path, header: bytes, data: bytes = b"", packing: int = zipfile.ZIP_STORED) -> Path:
    """A file whose array ``frames`` has a header of our own."""
    padded = header + b" " * (63 - (10 + len(header)) % 64) + b"\n"
    with zipfile.ZipFile(path, "w", packing) as file:
        file.writestr("frames.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + data)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_as_numpy_reads_them(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, **ARRAYS)
    assert {name: member.shape for name, member in read_members(path).items()} == {
        name: array.shape for name, array in ARRAYS.items()
    }
    found = read_arrays(path, *ARRAYS, "missing")
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    "shape", ["(100000, 100000, 100000, 3)", "(1 << 62,)", "(-1, 8, 8, 3)", "(9" + "9" * 400 + ",)", "(5, 8, 8)", "()"]
)
def test_a_header_that_claims_another_size_than_is_there_takes_no_memory(tmp_path, shape):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    path = archive(tmp_path / "bomb.npz", header, bytes(960))
    for read in (read_members, lambda path: read_arrays(path, "frames")):
        with pytest.raises(ArchiveError, match=r"bomb\.npz"):
            read(path)
    with pytest.raises(VideoError, match=r"bomb\.npz"):
        read_recording(path)


def test_a_member_that_claims_to_unpack_to_far_more_than_it_has_is_not_unpacked(tmp_path):
    size = 1 << 50
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size},), }}".encode()
    path = archive(tmp_path / "bomb.npz", header, bytes(4096), zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    entry = content.find(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = b"\xff" * 4
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"bomb\.npz"):
        read_members(path)


def test_objects_are_listed_and_not_read(tmp_path):
    np.savez(tmp_path / "a.npz", infos=np.array([{}, None], object), rewards=np.zeros(3))
    assert set(read_members(tmp_path / "a.npz")) == {"infos", "rewards"}
    with pytest.raises(ArchiveError, match="Object arrays"):
        read_arrays(tmp_path / "a.npz", "infos")


def stored() -> bytes:
    content = io.BytesIO()
    np.savez(content, **ARRAYS)
    return content.getvalue()


WHOLE = stored()


@given(
    st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=4)), max_size=6),
    st.integers(0, 2 * len(WHOLE)),
)
@settings(max_examples=300, deadline=None)
def test_damage_is_an_error_in_words(tmp_path_factory, changes, length):
    content = bytearray(WHOLE)
    for place, values in changes:
        content[place : place + len(values)] = values
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(content[:length])
    with suppress(ArchiveError):
        read_arrays(path, *ARRAYS)
    with suppress(ValueError):
        read_recording(path)
