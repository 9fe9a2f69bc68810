from __future__ import annotations

from pathlib import Path

import pytest

from robometer_rl.files import OutsideError
from robometer_rl.studio.material import RECORDINGS, Material
from robometer_rl.video import VideoError


@pytest.fixture
def material(tmp_path: Path) -> Material:
    (tmp_path / "mine" / "deep").mkdir(parents=True)
    (tmp_path / "uploads").mkdir()
    for name in ("mine/a.mp4", "mine/deep/b.GIF", "mine/notes.txt", "mine/.hidden.mp4", "secret.mp4", "uploads/up.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "mine" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    return Material([tmp_path / "mine"], tmp_path / "uploads")


def test_recordings_are_listed_by_names_without_the_folders_above(material: Material) -> None:
    assert material.listed(RECORDINGS) == ["mine/a.mp4", "mine/deep/b.GIF"]


def test_names_lead_to_files_in_the_data(material: Material, tmp_path: Path) -> None:
    assert material.path(None, "mine/deep/b.GIF") == tmp_path / "mine" / "deep" / "b.GIF"
    assert material.path(None, "mine") == tmp_path / "mine"


@pytest.mark.parametrize(
    "named", ["mine/../secret.mp4", "secret.mp4", "/etc/passwd", "mine//etc/passwd", "mine/link.mp4", "../secret.mp4"]
)
def test_nothing_outside_of_the_data_is_opened(material: Material, named: str) -> None:
    with pytest.raises(OutsideError):
        material.path(None, named)


def test_an_upload_is_only_what_lies_among_the_uploads(material: Material, tmp_path: Path) -> None:
    assert material.path(str(tmp_path / "uploads" / "up.mp4"), "mine/a.mp4").name == "up.mp4"
    for elsewhere in (tmp_path / "secret.mp4", tmp_path / "uploads" / ".." / "secret.mp4", tmp_path / "mine" / "a.mp4"):
        with pytest.raises(OutsideError, match="uploaded"):
            material.path(str(elsewhere), None)
    with pytest.raises(FileNotFoundError, match="upload it again"):
        material.path(str(tmp_path / "uploads" / "gone.mp4"), None)


@pytest.mark.parametrize("named", [None, "", "  "])
def test_something_has_to_be_chosen(material: Material, named: str | None) -> None:
    with pytest.raises(VideoError, match="no recording is chosen"):
        material.path(None, named)


def test_places_are_there_and_have_names_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing at"):
        Material([tmp_path / "absent"], tmp_path)
    (tmp_path / "one" / "data").mkdir(parents=True)
    (tmp_path / "two" / "data").mkdir(parents=True)
    with pytest.raises(ValueError, match="two places are called 'data'"):
        Material([tmp_path / "one" / "data", tmp_path / "two" / "data"], tmp_path)
