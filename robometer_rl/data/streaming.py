"""Stores on the Hub, read without downloading them: ``hf://datasets/OWNER/NAME``.

The index of a store is fetched as a whole, and of its frames the parts of shards that are asked for, by range requests
of one commit. The parts stay in this machine's cache until others need the room. A Hub that stumbles is asked again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Final

from robometer_rl.data.frame_files import StoredFrames, frames_in
from robometer_rl.data.rows import SHARDS, Row, StoreError
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.files import cache_folder, write_bytes
from robometer_rl.models.locations import HubError, hub_errors
from robometer_rl.streams import Source

__all__ = ["HubPart", "HubStore", "open_store"]

logger = logging.getLogger(__name__)

# Whoever makes a path of an address loses one of its slashes.
_ADDRESS: Final = re.compile(
    r"hf:/{1,2}datasets/(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/]+))?(?:/(?P<folder>.+?))?/?"
)
_MOST_GB: Final = 20.0
_LOOKED_AFTER: Final = 200  # parts that are fetched before the cache is looked after again


@dataclass(frozen=True)
class HubPart(Source):
    """Some bytes of a file on the Hub.

    Attributes:
        repo: Id of the dataset.
        revision: Its commit.
        name: Of the file.
        start: The first byte.
        size: How many; None for all that follow.
    """

    repo: str
    revision: str
    name: str
    start: int = 0
    size: int | None = None

    def open(self) -> BufferedReader:
        """The bytes, which are fetched unless they are in the cache.

        Raises:
            HubError: The Hub cannot be reached, refuses, or has something else.
        """
        path = _cache() / hashlib.sha256(repr(self).encode()).hexdigest()
        try:
            os.utime(path)  # what was used last goes last
            return path.open("rb")
        except FileNotFoundError:
            content = self._fetch()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
        opened = path.open("rb")
        _look_after(path.parent)  # may remove it again, which an open file survives
        return opened

    def version(self) -> Hashable:
        """A commit does not change."""
        return self.revision

    def __str__(self) -> str:
        return f"hf://datasets/{self.repo}@{self.revision[:7]}/{self.name}"

    def _fetch(self) -> bytes:
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

        url = hf_hub_url(self.repo, self.name, repo_type="dataset", revision=self.revision)
        last = "" if self.size is None else self.start + self.size - 1
        headers = {**build_hf_headers(), "Range": f"bytes={self.start}-{last}"}
        with hub_errors(f"read {self}"):
            answer = http_backoff("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
            hf_raise_for_status(answer)
            content = answer.content
        if answer.status_code != 206:  # all of the file
            content = content[self.start :][: self.size]
        if self.size is not None and len(content) != self.size:
            raise HubError(f"{self} ends before byte {self.start + self.size}; the dataset is not whole")
        return content


class HubStore(TrajectoryStore):
    """A store on the Hub, to be read only.

    Attributes:
        repo: Id of the dataset.
        revision: Its commit.
    """

    remote = True

    def __init__(self, repo: str, revision: str, folder: str, index: Path) -> None:
        """The store in a folder of a commit of a dataset, whose index has been fetched to ``index``.

        Raises:
            StoreError: It is no store of a version that this release reads.
        """
        super().__init__(index)
        self.repo, self.revision, self._folder = repo, revision, folder

    def frames_of(self, row: Row) -> StoredFrames:
        """See `TrajectoryStore.frames_of`."""
        super().frames_of(row)  # refuses names that lead elsewhere
        place = row.frames.place
        if place is None:
            part = HubPart(self.repo, self.revision, f"{self._folder}{row.frames.file}")
        else:
            part = HubPart(self.repo, self.revision, f"{self._folder}{SHARDS}/{place.shard}", place.start, place.size)
        return frames_in(part, row.frames, row.id)

    def broken_shards(self) -> dict[str, str]:
        """See `TrajectoryStore.broken_shards`."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        if not self.shards:
            return {}
        with hub_errors(f"list the dataset {self.repo}"):
            tree = HfApi().list_repo_tree(
                self.repo, f"{self._folder}{SHARDS}", revision=self.revision, repo_type="dataset"
            )
            sizes = {Path(entry.path).name: entry.size for entry in tree if isinstance(entry, RepoFile)}
        broken: dict[str, str] = {}
        for name, size in self.shards.items():
            if name not in sizes:
                broken[name] = f"the shard {name} is missing"
            elif sizes[name] != size:
                broken[name] = f"the shard {name} has {sizes[name]} bytes; expected {size}"
        return broken

    def append(self, trajectory: Trajectory, *, keep_video: bool = False) -> None:
        """Refuses: a store on the Hub is not written to."""
        raise StoreError(f"{self.repo} is on the Hub; append to a copy, which robometer-rl data pull makes")

    def seal(self) -> None:
        """Does nothing: what was pushed is sealed."""


def open_store(place: str | Path) -> TrajectoryStore:
    """Opens a store, which must be there.

    Args:
        place: A directory, or an address on the Hub, ``hf://datasets/OWNER/NAME[@REVISION][/FOLDER]``.

    Raises:
        StoreError: There is no store of a version that this release reads.
        HubError: The Hub cannot be reached, or has no such dataset.
        ModuleNotFoundError: The store is sealed, and the package ``pyarrow`` is not installed.
    """
    name = str(place)
    if not name.startswith("hf:/"):
        return TrajectoryStore.open(place)
    from huggingface_hub import HfApi, hf_hub_download

    match = _ADDRESS.fullmatch(name)
    if match is None:
        raise StoreError(f"got the address {name!r}; expected hf://datasets/OWNER/NAME[@REVISION][/FOLDER]")
    repo, folder = match["repo"], f"{match['folder']}/" if match["folder"] else ""
    with hub_errors(f"open the dataset {repo}"):
        found = HfApi().dataset_info(repo, revision=match["revision"])
        assert found.sha is not None
        files = {file.rfilename for file in found.siblings or ()}
        header = f"{folder}store.json"
        if header not in files:
            raise StoreError(
                f"hf://datasets/{repo}/{folder} is no store of trajectories: it has no store.json. Published data "
                "that is no store is downloaded, and opened as rbm:FOLDER"
            )
        paths = [
            Path(hf_hub_download(repo, each, repo_type="dataset", revision=found.sha))
            for each in (header, f"{folder}rows.arrow")
            if each in files
        ]
    return HubStore(repo, found.sha, folder, paths[0].parent)


def _cache() -> Path:
    return cache_folder() / "hub"


_fetched = 0


def _look_after(folder: Path) -> None:
    """Removes the parts that were not used for longest where there are more than may stay, now and then."""
    global _fetched
    _fetched += 1
    if _fetched % _LOOKED_AFTER:
        return
    most = float(os.environ.get("ROBOMETER_HUB_CACHE_GB") or _MOST_GB) * 1e9
    parts: list[tuple[float, int, str]] = []
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):  # another process looks after it, too
            if entry.is_file():
                status = entry.stat()
                parts.append((status.st_mtime, status.st_size, entry.path))
    size = sum(part[1] for part in parts)
    for _, freed, path in sorted(parts):
        if size <= most:
            break
        Path(path).unlink(missing_ok=True)
        size -= freed
