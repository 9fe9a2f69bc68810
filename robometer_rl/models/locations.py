"""Where a checkpoint is: inside the package, in a directory, or on the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import cast

from robometer_rl.documents import brief, parse_json, read_text

__all__ = [
    "CHECKPOINT_FILES",
    "COMPACT_MODEL_TYPE",
    "EMBEDDED",
    "TOKENIZER_FILES",
    "HubError",
    "Location",
    "UnknownModelError",
    "hub_errors",
    "is_compact",
    "is_hub_id",
    "locate",
]

EMBEDDED = {"mini": "robometer-mini"}
"""Checkpoints inside the package: name to folder under ``assets``."""

COMPACT_MODEL_TYPE = "robometer-compact"
"""What ``model_type`` in the configuration of a compact reward model says."""

TOKENIZER_FILES = ("*.json", "*.txt", "*.jinja")
CHECKPOINT_FILES = ("*.safetensors", "*.yaml", *TOKENIZER_FILES)

_HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


class UnknownModelError(ValueError):
    """A name that is neither an embedded checkpoint, a directory, nor a Hub id; the message says what exists."""


class HubError(OSError):
    """The Hub cannot be reached or refuses; the message says what was wanted of it and what it said."""


@dataclass(frozen=True)
class Location:
    """What a model name stands for.

    Attributes:
        directory: Where the files are.
        model_id: The name without its revision.
        revision: Commit on the Hub; None for what was not downloaded.
    """

    directory: Path
    model_id: str
    revision: str | None = None


def locate(name: str | Path, patterns: Sequence[str] = CHECKPOINT_FILES) -> Location:
    """Finds a checkpoint, downloading it if it is on the Hub.

    Args:
        name: An embedded name, a directory, or a Hub id with an optional ``@revision``.
        patterns: Files wanted from the Hub.

    Raises:
        UnknownModelError: The name means nothing here, or the Hub does not give it.
    """
    text = str(name)
    if text in EMBEDDED:
        return Location(Path(str(files("robometer_rl") / "assets" / EMBEDDED[text])), EMBEDDED[text])
    if "://" in text:
        raise UnknownModelError(f"got the address {text!r}; expected http://HOST:PORT or https://HOST")
    try:
        # An empty path would be the working directory.
        if text and Path(text).is_dir():
            return Location(Path(text), text)
        if text and Path(text).exists():
            raise UnknownModelError(f"{text} is a file; expected the directory of a checkpoint")
    except OSError as error:  # a text that is too long to be a path, a folder that may not be looked into
        raise UnknownModelError(f"unknown model {brief(text)}: {error.strerror}") from error
    match = _HUB_ID.fullmatch(text)
    if match is None:
        raise UnknownModelError(
            f"unknown model {brief(text)}; expected one of the embedded {sorted(EMBEDDED)}, an existing checkpoint "
            "directory, a Hub id such as 'robometer/Robometer-4B' or 'robometer/Robometer-4B@main', or FAMILY:WHERE"
        )
    return _download(match["id"], match["revision"], patterns)


def is_compact(directory: Path) -> bool:
    """Whether a folder holds a compact reward model, as its configuration says (`robometer_rl.models.compact`)."""
    try:
        described = parse_json(read_text(directory / "config.json"))
    except (OSError, ValueError):  # no folder, no such file, or not one that could say so
        return False
    return isinstance(described, dict) and described.get("model_type") == COMPACT_MODEL_TYPE


def is_hub_id(name: str) -> bool:
    """Whether ``name`` could be a repository on the Hub, as in ``robometer/Robometer-4B``, without a revision."""
    match = _HUB_ID.fullmatch(name)
    return match is not None and match["revision"] is None


@contextmanager
def hub_errors(wanted: str, kind: type[Exception] = HubError) -> Iterator[None]:
    """Turns whatever the Hub's library raises within the block into one kind of error with one line.

    Args:
        wanted: What is done there, as in "download the dataset someone/drawers".
        kind: What is raised instead.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    # What the library does not catch itself is passed on as its HTTP client raises it, and that is not always the same.
    client_error = cast("type[Exception]", HfHubHTTPError.__bases__[0])
    try:
        yield
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise kind(f"could not {wanted}: {' '.join(str(error).split())}") from error
    except client_error as error:
        raise kind(
            f"could not {wanted}: {constants.ENDPOINT} does not answer ({' '.join(str(error).split())}); check the "
            "network, and give the same command again"
        ) from error


def _download(repository: str, revision: str | None, patterns: Sequence[str]) -> Location:
    from huggingface_hub import is_offline_mode, snapshot_download

    wanted = f"{repository}@{revision}" if revision else repository
    with hub_errors(f"get {wanted!r} from the Hub, and no directory of that name exists here", UnknownModelError):
        # Said outright: releases below 2 ask the network about a revision that is a commit, even when they are offline.
        offline = is_offline_mode()
        path = Path(
            snapshot_download(repository, revision=revision, allow_patterns=list(patterns), local_files_only=offline)
        )
    # The cache lays snapshots out by commit, so this is exact even where a branch was asked for.
    return Location(path, repository, path.name)
