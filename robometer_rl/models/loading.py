"""One function that turns a name into a reward model."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import torch

from robometer_rl.models.reward_model import RewardModel
from robometer_rl.models.robometer.checkpoint import load_checkpoint
from robometer_rl.models.robometer.config import CheckpointError
from robometer_rl.models.robometer.inference import Robometer

__all__ = ["EMBEDDED", "UnknownModelError", "load_reward_model"]

EMBEDDED = {"mini": "robometer-mini"}
"""Checkpoints inside the package: name to folder under ``assets``."""

_HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_CHECKPOINT_FILES = ["*.safetensors", "*.json", "*.yaml", "*.txt", "*.jinja"]


class UnknownModelError(ValueError):
    """A name that is neither an embedded checkpoint, a directory, nor a Hub id; the message says what exists."""


def load_reward_model(
    name: str | Path,
    device: str | torch.device = "cpu",
    dtype: str | None = None,
    attn_implementation: str = "sdpa",
) -> RewardModel:
    """Loads a reward model.

    Args:
        name: ``"mini"`` (embedded in the package), a checkpoint directory, or a Hub id with an optional revision
            (``"robometer/Robometer-4B"``, ``"robometer/Robometer-4B@<tag, branch or commit>"``; the default branch
            if none is given).
        device: Where to run, such as ``"cuda"``.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``; as stored in the checkpoint if None.
        attn_implementation: ``"sdpa"`` or ``"eager"`` can do everything; others that transformers knows can `predict`
            and `compare`.

    Raises:
        UnknownModelError: The name means nothing here.
        CheckpointError: The checkpoint is incomplete or of another kind.

    Example:
        >>> model = load_reward_model("mini")
        >>> model.model_id
        'robometer-mini'
    """
    text = str(name)
    directory, model_id, revision = _locate(text)
    checkpoint = load_checkpoint(directory, device, _dtype(dtype), attn_implementation)
    return Robometer(checkpoint, source=text, model_id=model_id, revision=revision)


def _locate(name: str) -> tuple[Path, str, str | None]:
    """Directory, id and revision of a model name; downloads what is on the Hub."""
    if name in EMBEDDED:
        return Path(str(files("robometer_rl") / "assets" / EMBEDDED[name])), EMBEDDED[name], None
    if "://" in name:
        raise UnknownModelError(f"got the address {name!r}; this release has no client for a reward server")
    if Path(name).is_dir():
        return Path(name), name, None
    if Path(name).exists():
        raise CheckpointError(f"{name} is a file; expected the directory of a checkpoint")
    match = _HUB_ID.fullmatch(name)
    if match is None:
        raise UnknownModelError(
            f"unknown model {name!r}; expected one of the embedded {sorted(EMBEDDED)}, an existing checkpoint "
            "directory, or a Hub id such as 'robometer/Robometer-4B' or 'robometer/Robometer-4B@main'"
        )
    return _download(match["id"], match["revision"])


def _download(repository: str, revision: str | None) -> tuple[Path, str, str | None]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(repository, revision=revision, allow_patterns=_CHECKPOINT_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        wanted = f"{repository}@{revision}" if revision else repository
        raise UnknownModelError(
            f"could not get {wanted!r} from the Hub, and no directory of that name exists here: {error}"
        ) from error
    # The cache lays snapshots out by commit, so this is exact even where a branch was asked for.
    return path, repository, path.name


def _dtype(name: str | None) -> torch.dtype | None:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name is None:
        return None
    if name not in known:
        raise ValueError(f"got the dtype {name!r}; expected one of {sorted(known)}")
    return known[name]
