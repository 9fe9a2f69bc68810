"""What the studio may look at: what is uploaded to it, and what lies in the folders that it was given."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from robometer_rl.data.flags import data_name
from robometer_rl.files import OutsideError, inside
from robometer_rl.video import VIDEO_SUFFIXES, VideoError

__all__ = ["RECORDINGS", "Material", "called", "files_in", "located"]

RECORDINGS: Final = (*VIDEO_SUFFIXES, ".gif", ".npz")
"""How files end that `robometer_rl.video.read_recording` reads."""

_LISTED: Final = 1000  # names that a list on a page holds; others are typed
_DEPTH: Final = 4  # of folders in folders that are looked through for them


@dataclass(frozen=True)
class Material:
    """Where recordings may be read from; nothing else on the disk is opened for a page.

    Attributes:
        places: Folders and files that were given when the studio was started; no two have the same name.
        uploads: Folder in which the server keeps what is uploaded to it.
    """

    places: Sequence[Path]
    uploads: Path

    def __post_init__(self) -> None:
        for place in self.places:
            if not place.exists():
                raise FileNotFoundError(f"there is nothing at {place}; expected a file or a folder to look at")
        names = [data_name(place) for place in self.places]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two places are called {twice[0]!r}; give one folder that holds both")

    def listed(self, suffixes: Sequence[str]) -> list[str]:
        """Names of files with such ends in all places, as `path` takes them; the first thousand."""
        found = []
        for place in self.places:
            for path in sorted(files_in(place)):
                if path.suffix.lower() in suffixes:
                    found.append(called(place, path))
                if len(found) == _LISTED:
                    return found
        return found

    def path(self, uploaded: str | None, named: str | None) -> Path:
        """What a page is about: an uploaded file, or one in the data by its name, ``PLACE/FOLDER/FILE``.

        Args:
            uploaded: Path that the server has given an upload; it comes back from a browser, which may say anything.
            named: Taken where nothing is uploaded.

        Raises:
            VideoError: Neither is given.
            OutsideError: It is elsewhere.
        """
        if uploaded:
            return self._upload(uploaded)
        if not named or not named.strip():
            raise VideoError("no recording is chosen; upload a video, a GIF or an .npz, or name one in the data")
        return located(self.places, named.strip())

    def paths(self, uploaded: Sequence[str], named: Sequence[str]) -> list[Path]:
        """Several of them, those that were uploaded first; see `path`."""
        return [*(self.path(each, None) for each in uploaded), *(self.path(None, each) for each in named)]

    def _upload(self, uploaded: str) -> Path:
        real, home = Path(os.path.realpath(uploaded)), Path(os.path.realpath(self.uploads))
        if not real.is_relative_to(home):
            raise OutsideError("this is no file that was uploaded to the studio")
        if not real.exists():
            raise FileNotFoundError(f"{real.name} is not kept any longer; upload it again")
        return real


def called(place: Path, path: Path) -> str:
    """What pages call a file or folder in a place, ``PLACE/FOLDER/FILE``."""
    return data_name(place) if path == place else f"{data_name(place)}/{path.relative_to(place)}"


def located(places: Sequence[Path], named: str) -> Path:
    """The inverse of `called`.

    Raises:
        OutsideError: It is in none of the places.
    """
    head, _, rest = named.partition("/")
    place = next((place for place in places if data_name(place) == head), None)
    if place is None:
        known = ", ".join(map(data_name, places)) or "none"
        raise OutsideError(f"{named!r} is in none of the places that the studio was given: {known}")
    return inside(place, rest) if rest else place


def files_in(place: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """The files in a place, but those that are hidden or behind links."""
    if place.is_file():
        yield place
    elif depth and place.is_dir():
        for each in place.iterdir():
            if not each.is_symlink() and not each.name.startswith("."):
                yield from files_in(each, depth - 1)
