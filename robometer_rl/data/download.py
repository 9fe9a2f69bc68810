"""``robometer-rl data download``: the published training and evaluation data, as much of it as a group needs.

Caches come as archives, which ``import rbm`` and ``train --data rbm:`` read as they are; videos as folders of their
repositories. Files that are there in full are not fetched again, and one that broke off goes on where it ended.
"""

from __future__ import annotations

import errno
import logging
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import tyro
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table

from robometer_rl.data.published import Collection, GroupList, Stage, UnknownGroupError, data_path, published
from robometer_rl.files import inside
from robometer_rl.models.locations import HubError, hub_errors
from robometer_rl.ranges import require_counts
from robometer_rl.report.terminal import open_console

__all__ = ["Download", "DownloadConfig", "data_path", "download", "plan_download"]

logger = logging.getLogger(__name__)

_LONGEST_WAIT: Final = 60.0  # seconds before an attempt


@dataclass(frozen=True)
class DownloadConfig:
    """Downloads published data: archives of preprocessed caches, or repositories of videos.

    Attributes:
        names: Groups, as in rbm-1m-id, rbm-1m-ood, libero_pi0 or mw, or keys of collections.
        to: Where to; left out, what the environment says (ROBOMETER_PROCESSED_DATASETS_PATH or
            RBM_PROCESSED_DATASETS_PATH, for videos ROBOMETER_DATASET_PATH or RFM_DATASET_PATH), or a folder here.
        stage: "processed" for caches of at most 32 frames an episode, "raw" for videos.
        lists: Which lists of the groups.
        attempts: How often a file is asked for before the command gives up.
        dry_run: Say what would be downloaded, and download nothing.
    """

    names: tyro.conf.Positional[tuple[str, ...]]
    to: Path | None = None
    stage: Stage = "processed"
    lists: tuple[GroupList, ...] = ("train", "eval")
    attempts: int = 5
    dry_run: bool = False

    def __post_init__(self) -> None:
        require_counts(self, 1, "attempts")
        if not self.names:
            groups = ", ".join(sorted(published().groups))
            raise UnknownGroupError(f"got no name; expected groups or collections. The groups are {groups}")


@dataclass(frozen=True)
class _File:
    repository: str
    revision: str
    name: str
    size: int
    folder: Path  # which the name is relative to

    @property
    def path(self) -> Path:
        return self.folder / self.name

    @property
    def is_there(self) -> bool:
        return self.path.is_file() and self.path.stat().st_size == self.size


@dataclass(frozen=True)
class Download:
    """What a download consists of.

    Attributes:
        folder: Where to.
        collections: By key, the files of it; none for those that the Hub does not have.
    """

    folder: Path
    collections: Mapping[str, tuple[_File, ...]]

    @property
    def files(self) -> tuple[_File, ...]:
        """Those that are not there yet."""
        unique = {each.path: each for files in self.collections.values() for each in files}
        return tuple(each for each in unique.values() if not each.is_there)

    @property
    def size(self) -> int:
        """Bytes of `files`."""
        return sum(each.size for each in self.files)

    @property
    def missing(self) -> tuple[str, ...]:
        """Keys of the collections that the Hub does not have."""
        return tuple(key for key, files in self.collections.items() if not files)


def plan_download(config: DownloadConfig) -> Download:
    """Asks the Hub which files are meant and how large they are.

    Raises:
        UnknownGroupError: There is no such group or collection.
        HubError: The Hub cannot be reached or refuses.
        OutsideError: A name there leads out of the folder.
    """
    folder = config.to or data_path(config.stage)
    chosen = [published().collections[key] for key in published().keys(config.names, config.lists)]
    found = _archives(chosen, folder) if config.stage == "processed" else _videos(chosen, folder)
    for files in found.values():
        for each in files:
            inside(each.folder, each.name)
    return Download(folder, found)


def download(config: DownloadConfig) -> Download:
    """Downloads what is missing; with ``dry_run`` says what that is.

    Raises:
        OSError: There is no room for it; nothing has been written then.
        HubError: The Hub has none of it, cannot be reached, or has not answered at the last of the attempts. What is
            complete stays, and the same command goes on.
    """
    plan = plan_download(config)
    if len(plan.missing) == len(plan.collections):
        raise HubError(f"the Hub has nothing of {', '.join(config.names)}: {'; '.join(map(_why, plan.missing))}")
    _print_plan(plan)
    for key in plan.missing:
        logger.warning("not on the Hub: %s", _why(key))
    if config.dry_run:
        return plan
    _check_room(plan)
    _fetch(plan, config.attempts)
    command = f"robometer-rl data import rbm {plan.folder} STORE"
    open_console().print(f"everything is in {plan.folder}; next: {command}", soft_wrap=True)
    return plan


def _archives(chosen: list[Collection], folder: Path) -> dict[str, tuple[_File, ...]]:
    repository, revision = _first_repository(published().archives)
    listed = list(_listed(repository, revision, None, folder))
    found: dict[str, tuple[_File, ...]] = {}
    for collection in chosen:
        keys = [collection.key, *([collection.stand_in] if collection.stand_in else [])]
        of_key = ([each for each in listed if _is_archive_of(key, each.name)] for key in keys)
        found[collection.key] = tuple(next((files for files in of_key if files), []))
    return found


def _is_archive_of(key: str, name: str) -> bool:
    return re.fullmatch(rf"(.*/)?{re.escape(key)}\.tar(\.part-?[a-z]{{2}})?", name) is not None


def _videos(chosen: list[Collection], folder: Path) -> dict[str, tuple[_File, ...]]:
    found: dict[str, tuple[_File, ...]] = {}
    for collection in chosen:
        place = folder / collection.repository.partition("/")[2]
        try:
            _, revision = _first_repository((collection.repository,))
            found[collection.key] = tuple(_listed(collection.repository, revision, collection.subset, place))
        except FileNotFoundError:
            found[collection.key] = ()
    return found


def _first_repository(names: tuple[str, ...]) -> tuple[str, str]:
    """The first of these data sets that the Hub has, and its commit; `FileNotFoundError` if it has none."""
    for name in names:
        with hub_errors(f"look at the dataset {name}"):
            try:
                found = HfApi().dataset_info(name)
            except RepositoryNotFoundError:
                continue
            assert found.sha is not None
            return name, found.sha
    raise FileNotFoundError(f"the Hub has no dataset {' or '.join(names)}, or none that you may read; set HF_TOKEN")


def _listed(repository: str, revision: str, subset: str | None, folder: Path) -> Iterator[_File]:
    with hub_errors(f"list the dataset {repository}"):
        try:
            tree = HfApi().list_repo_tree(repository, subset, recursive=True, revision=revision, repo_type="dataset")
            for entry in tree:
                if isinstance(entry, RepoFile):
                    yield _File(repository, revision, entry.path, entry.size, folder)
        except HfHubHTTPError as error:
            if error.response.status_code != 404:  # no such folder in it
                raise


def _why(key: str) -> str:
    problem = published().collections[key].problem
    return key if problem is None else f"{key} ({problem})"


def _print_plan(plan: Download) -> None:
    table = Table("collection", "files", "GB", "GB to download")
    for key, files in plan.collections.items():
        if files:
            lacking = sum(each.size for each in files if not each.is_there)
            table.add_row(key, str(len(files)), f"{_gb(sum(each.size for each in files))}", _gb(lacking))
    console = open_console()
    console.print(table)
    console.print(f"{_gb(plan.size)} GB in {len(plan.files)} files to {plan.folder}", soft_wrap=True)


def _gb(size: int) -> str:
    return f"{size / 1e9:.3f}"


def _check_room(plan: Download) -> None:
    there = next(each for each in (plan.folder, *plan.folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    if plan.size > free:
        raise OSError(
            errno.ENOSPC, f"{_gb(plan.size)} GB are to be downloaded, and {_gb(free)} GB are free", str(plan.folder)
        )


def _fetch(plan: Download, attempts: int) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=open_console(stderr=True)) as progress:
        bar = progress.add_task("downloading", total=plan.size)
        for file in plan.files:
            progress.update(bar, description=file.path.name)
            _fetch_file(file, attempts)
            progress.advance(bar, file.size)


def _fetch_file(file: _File, attempts: int) -> None:
    for attempt in range(1, attempts + 1):
        try:
            with hub_errors(f"download {file.name} of the dataset {file.repository}"):
                HfApi().hf_hub_download(
                    file.repository, file.name, repo_type="dataset", revision=file.revision, local_dir=file.folder
                )
            return
        except (HubError, ConnectionError, TimeoutError) as error:
            if attempt == attempts or not _may_pass(error):
                raise
            wait = min(2.0 ** (attempt - 1), _LONGEST_WAIT)
            logger.info("%s; attempt %d of %d follows in %g s", error, attempt + 1, attempts, wait)
            time.sleep(wait)


def _may_pass(error: OSError) -> bool:
    """Whether it may go better the next time: not where the Hub says that it will not."""
    cause = error.__cause__
    if not isinstance(cause, HfHubHTTPError):
        return True
    status = cause.response.status_code
    return status == 429 or status >= 500
