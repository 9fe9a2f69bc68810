"""LeRobot datasets on the Hugging Face Hub, of which only those files are fetched that are read, when they are.

The metadata come first; then, episode by episode, the Parquet file and the videos of the cameras that are asked for.
They stay in the Hub's own cache.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from robometer_rl.data.reading import SourceError
from robometer_rl.extras import require
from robometer_rl.formats.lerobot.layout import LeRobotLayout
from robometer_rl.models.locations import hub_errors, is_hub_id

__all__ = ["HubLayout", "open_layout"]

logger = logging.getLogger(__name__)


def open_layout(path: Path) -> LeRobotLayout:
    """The dataset in a directory, or if there is no such directory, the one on the Hub that is called so.

    Args:
        path: A directory, or ``OWNER/NAME`` or ``OWNER/NAME@REVISION``.

    Raises:
        SourceError: Neither, or one that `LeRobotLayout` refuses.
        HubError: The Hub cannot be reached or refuses.
    """
    repository, _, revision = path.as_posix().partition("@")
    if path.exists() or not is_hub_id(repository):
        return LeRobotLayout(path)
    return HubLayout(repository, revision or None)


class HubLayout(LeRobotLayout):
    """The metadata of a dataset on the Hub, and the way to its files; see `LeRobotLayout`."""

    def __init__(self, repository: str, revision: str | None = None) -> None:
        """Fetches and reads the metadata.

        Raises:
            SourceError: See `LeRobotLayout`.
            HubError: There is no such dataset, or the Hub cannot be reached.
        """
        hub = require("huggingface_hub", "lerobot")
        with hub_errors(f"read the dataset {repository} from the Hub, and no directory of that name exists here"):
            root = Path(
                hub.snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns="meta/*")
            )
        super().__init__(root)
        self.name = repository
        self._commit = root.name

    def fetch(self, position: int, cameras: Sequence[str]) -> None:
        """See `LeRobotLayout.fetch`."""
        try:
            episode = self[position]
        except SourceError:
            return  # whoever reads it is told
        paths = [episode.data_path, *(episode.videos[camera].path for camera in cameras if camera in episode.videos)]
        hub = require("huggingface_hub", "lerobot")
        missing = require("huggingface_hub.errors", "lerobot").EntryNotFoundError
        for path in paths:
            if path.exists():
                continue
            name = path.relative_to(self.root).as_posix()
            logger.info("fetching %s of %s", name, self.name)
            with hub_errors(f"read the dataset {self.name}"):
                try:
                    hub.hf_hub_download(self.name, name, repo_type="dataset", revision=self._commit)
                except missing:
                    logger.warning("%s has no file %s", self.name, name)
