"""Parts of files, and files in parts."""

import io
import pickle

import pytest

from robometer_rl.streams import JoinedFiles, Region


@pytest.fixture
def parts(tmp_path):
    content = bytes(range(100))
    for name, piece in zip("abc", (content[:33], content[33:34], content[34:]), strict=True):
        (tmp_path / name).write_bytes(piece)
    return tuple(tmp_path / name for name in "abc"), content


def test_files_in_parts_read_as_the_whole(parts):
    paths, content = parts
    with io.BufferedReader(JoinedFiles(paths)) as file:
        assert file.read() == content
        for start, size in [(30, 10), (33, 1), (0, 100), (99, 5), (200, 3)]:
            file.seek(start)
            assert file.read(size) == content[start : start + size]
        assert file.seek(-4, io.SEEK_END) == 96
        assert file.read() == content[96:]
    with pytest.raises(FileNotFoundError):
        JoinedFiles([paths[0], paths[0].with_name("d")])


def test_a_region_is_a_file_of_its_own(parts):
    paths, content = parts
    for files in (paths, paths[2:]):
        start = 20 if files == paths else 1
        whole = content if files == paths else content[34:]
        region = pickle.loads(pickle.dumps(Region(files, "inner", start, 30)))
        with region.open() as file:
            assert file.read() == whole[start : start + 30]
            file.seek(25)
            assert file.read(100) == whole[start + 25 : start + 30]
        before = region.version()
        files[-1].write_bytes(b"")
        assert region.version() != before
        files[-1].write_bytes(content[34:])
