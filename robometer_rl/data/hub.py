"""``robometer-rl data push`` and ``data pull``: stores as datasets on the Hugging Face Hub.

The rows are one Arrow file that the Hub's viewer shows and ``datasets.load_dataset`` reads; frame files lie beside it.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import HfApi, snapshot_download

from robometer_rl.data.inspect import StoreSummary, summarise
from robometer_rl.data.rows import SHARDS
from robometer_rl.data.store import StoreError, TrajectoryStore
from robometer_rl.files import inside
from robometer_rl.models.locations import hub_errors, is_hub_id
from robometer_rl.report.markup import markdown
from robometer_rl.report.terminal import open_console

__all__ = ["PARTS", "UNFINISHED", "PullConfig", "PushConfig", "pull", "push"]

logger = logging.getLogger(__name__)

_MAX_FILES: Final = 10_000  # that the Hub takes in one folder
_ROWS: Final = "rows.arrow"
PARTS: Final = ["store.json", _ROWS, "frames/*", "videos/*", f"{SHARDS}/*.tar"]
"""Files of a store that the Hub has."""

UNFINISHED: Final = "*/.*"
"""Among these, what a process that was killed has left."""

_REPLACED: Final = ("store.json", _ROWS)  # what every store has under the same name
_NOTES: Final = Path(".cache", "huggingface", "download")  # where the Hub's library notes what it downloaded


@dataclass(frozen=True)
class PushConfig:
    """Seals a store and uploads it as a dataset.

    Attributes:
        path: Directory of the store.
        repo: Id of the dataset on the Hub, as in USER/NAME; made if it is not there.
        private: Make it so that only its owners see it.
        dry_run: Say what would be uploaded, and upload nothing.
    """

    path: Path
    repo: str
    private: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class PullConfig:
    """Downloads a store.

    Attributes:
        repo: Id of the dataset on the Hub, as in USER/NAME.
        output: Directory of the new store.
        revision: Branch, tag or commit.
    """

    repo: str
    output: Path
    revision: str | None = None


def push(config: PushConfig) -> list[str]:
    """Seals a store and uploads it. A dry run does neither: it leaves the store as it is.

    Returns:
        The files, relative to the store.

    Raises:
        StoreError: There is no store, some of its rows are damaged, or it has more files than the Hub takes.
        OutsideError: A file of the store is a link out of it.
        ValueError: ``repo`` is no id of the Hub.
        HubError: The Hub cannot be reached or refuses.
    """
    _check_id(config.repo)
    store = TrajectoryStore.open(config.path)
    with tempfile.TemporaryDirectory() as folder:
        sizes = _previewed(store, Path(folder)) if config.dry_run else _sealed(store)
    what = f"{len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB, {len(store)} trajectories"
    if config.dry_run:
        open_console().print(f"would upload {what} to https://huggingface.co/datasets/{config.repo}", soft_wrap=True)
    else:
        with hub_errors(f"upload the dataset {config.repo}"):
            _upload(config, _card(config.repo, summarise(store)))
        logger.info("uploaded %s", what)
    return sorted(sizes)


def _sealed(store: TrajectoryStore) -> dict[str, int]:
    """The files of a store and their sizes, once it is sealed."""
    store.seal()
    _refuse_damaged(store, len(list((store.path / "rows").glob("*.json"))))
    return _files(store.path)


def _previewed(store: TrajectoryStore, folder: Path) -> dict[str, int]:
    """The same of a store that stays as it is; ``folder`` is a place for the file that sealing would make."""
    rows = folder / _ROWS
    _refuse_damaged(store, store.preview_seal(rows))
    return _files(store.path) | ({_ROWS: rows.stat().st_size} if rows.exists() else {})


def _refuse_damaged(store: TrajectoryStore, count: int) -> None:
    if count:
        raise StoreError(f"{count} trajectories in {store.path} are damaged; `robometer-rl data verify` lists them")


def _files(store: Path) -> dict[str, int]:
    """Sizes in bytes of what is uploaded of a sealed store, by path relative to it."""
    files = [path for part in PARTS for path in store.glob(part) if not path.name.startswith(".")]
    names = [path.relative_to(store).as_posix() for path in files]
    for name in names:  # a link in a store that came from somewhere would be uploaded as what it leads to
        inside(store, name)
    per_folder = max(sum(path.parent.name == folder for path in files) for folder in ("frames", "videos"))
    if per_folder > _MAX_FILES:
        raise StoreError(
            f"{store} has {per_folder} frame files, and the Hub takes {_MAX_FILES} in one folder: pack them into a few "
            f"first, robometer-rl data pack {store} OUT"
        )
    return {name: path.stat().st_size for name, path in zip(names, files, strict=True)}


def pull(config: PullConfig) -> TrajectoryStore:
    """Downloads a store, or what is missing of it.

    Raises:
        ValueError: ``repo`` is no id of the Hub.
        HubError: There is no such dataset, or the Hub cannot be reached.
        StoreError: The dataset is not a store, or ``output`` holds trajectories that are not from the Hub.
        OutsideError: It has files whose names lead out of ``output``.
    """
    _check_id(config.repo)
    _check_free(config)
    with hub_errors(f"download the dataset {config.repo}"):
        # Asked first: where the Hub cannot be reached, `snapshot_download` takes half a download for the whole.
        found = HfApi().dataset_info(config.repo, revision=config.revision)
        for file in found.siblings or ():
            inside(config.output, file.rfilename)
        snapshot_download(
            config.repo, repo_type="dataset", revision=found.sha, local_dir=config.output, allow_patterns=PARTS
        )
    return TrajectoryStore.open(config.output)


def _check_id(repo: str) -> None:
    if not is_hub_id(repo):
        raise ValueError(f"got the dataset {repo!r}; expected OWNER/NAME as on the Hub")


def _check_free(config: PullConfig) -> None:
    """Refuses to put the Hub's rows in the place of others: what was downloaded is not newer than the note about it."""
    for name in _REPLACED:
        file, note = config.output / name, config.output / _NOTES / f"{name}.metadata"
        if file.exists() and not (note.exists() and file.stat().st_mtime <= note.stat().st_mtime):
            raise StoreError(
                f"{config.output} holds trajectories that are not those of {config.repo}, which would take their "
                "place; pull into another directory, and bring both together with `robometer-rl data import store`"
            )


def _upload(config: PushConfig, card: str) -> None:
    hub = HfApi()
    hub.create_repo(config.repo, repo_type="dataset", private=config.private, exist_ok=True)
    hub.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=config.repo, repo_type="dataset")
    hub.upload_folder(
        repo_id=config.repo,
        folder_path=config.path,
        repo_type="dataset",
        allow_patterns=PARTS,
        ignore_patterns=UNFINISHED,
    )


def _card(repo: str, summary: StoreSummary) -> str:
    """The dataset's page: what it holds, and for the Hub's viewer where the rows are."""
    return f"""---
configs:
- config_name: default
  data_files: rows.arrow
tags:
- robotics
- reward-model
---

# {markdown(repo)}

{len(summary.lengths)} trajectories with {int(summary.lengths.sum())} frames of {len(summary.qualities)} tasks, as
`robometer_rl` stores them: `robometer-rl data pull {repo} DIRECTORY` fetches them.
"""
