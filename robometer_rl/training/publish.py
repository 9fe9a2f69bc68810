"""``robometer-rl publish``: a complete checkpoint with a model card on the Hub, in one commit."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import tyro
from rich.table import Table

from robometer_rl.models.locations import CHECKPOINT_FILES, is_hub_id
from robometer_rl.report.terminal import open_console
from robometer_rl.training.card import CARD_FILE, model_card
from robometer_rl.training.record import read_record

if TYPE_CHECKING:
    from robometer_rl.models.robometer.inference import Robometer

__all__ = ["PublishConfig", "PublishError", "Release", "prepare", "publish"]

logger = logging.getLogger(__name__)

_LEFT_OUT: Final = ("trainer_state.json",)  # what going on with a training needs, and nobody else


class PublishError(ValueError):
    """A checkpoint that others could not load, or a name that the Hub does not take; the message says what to do."""


@dataclass(frozen=True)
class PublishConfig:
    """Pushes a checkpoint with a model card to the Hub, after loading it and predicting once.

    A README.md in the checkpoint's directory is taken as the card; otherwise one is written from the record of the
    training and from the evaluation.

    Attributes:
        checkpoint: Directory of the checkpoint.
        repo_id: Name on the Hub, as in ``you/robometer-kitchen``; it is made if there is none.
        evaluation: JSON file that ``robometer-rl evaluate`` wrote, for the card.
        license: Licence of the weights, as the Hub abbreviates it; it has to agree with that of the start checkpoint.
        private: Let only yourself see a repository that is made.
        message: Of the commit.
        dry_run: Check everything, list what would be pushed, show the card, and push nothing.
    """

    checkpoint: tyro.conf.Positional[Path]
    repo_id: tyro.conf.Positional[str]
    evaluation: Path | None = None
    license: str = "mit"
    private: bool = False
    message: str = "Publish a reward model"
    dry_run: bool = False


@dataclass(frozen=True)
class Release:
    """What is pushed.

    Attributes:
        files: Path inside the repository to content: a file's place, or the bytes of one that is not on disk.
    """

    files: Mapping[str, Path | bytes]

    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }

    def table(self, title: str) -> Table:
        """Files and sizes for the terminal."""
        table = Table(title=title, title_justify="left")
        table.add_column("file")
        table.add_column("size", justify="right")
        for name, size in self.sizes().items():
            table.add_row(name, _readable(size))
        table.add_section()
        table.add_row("total", _readable(sum(self.sizes().values())))
        return table


def publish(config: PublishConfig) -> None:
    """Checks a checkpoint and pushes it, or only says what would be pushed.

    Raises:
        PublishError: See `prepare`.
        CheckpointError: The directory does not load.
        OSError: The Hub cannot be reached or refuses.
    """
    release = prepare(config)
    console = open_console()
    console.print(release.table(f"{config.repo_id}, license {config.license}"))
    if config.dry_run:
        console.print(_text(release.files[CARD_FILE]), markup=False, highlight=False)
        console.print("Dry run: it loads and predicts; nothing was pushed.")
        return
    console.print(f"Pushed: {_push(config, release)}", soft_wrap=True)


def prepare(config: PublishConfig) -> Release:
    """Loads the checkpoint as others will, lets it predict once, and puts together what is pushed.

    Raises:
        PublishError: A name that is not OWNER/NAME, a directory that others could not load, or an evaluation that is
            none.
        CheckpointError: The directory does not load.
    """
    if not is_hub_id(config.repo_id):
        raise PublishError(f"got the name {config.repo_id!r}; expected OWNER/NAME as on the Hub")
    if not config.checkpoint.is_dir():
        raise PublishError(f"there is no checkpoint directory {config.checkpoint}")
    model = _loaded(config.checkpoint)
    paths = sorted({path for pattern in CHECKPOINT_FILES for path in config.checkpoint.glob(pattern)})
    files: dict[str, Path | bytes] = {path.name: path for path in paths if path.name not in _LEFT_OUT}
    card = config.checkpoint / CARD_FILE
    if card.is_file():
        files[CARD_FILE] = card
    else:
        evaluation = None if config.evaluation is None else _evaluation(config.evaluation)
        text = model_card(config.repo_id, config.license, model, read_record(config.checkpoint), evaluation)
        files[CARD_FILE] = text.encode()
    return Release(files)


def _loaded(directory: Path) -> Robometer:
    import numpy as np

    from robometer_rl.frames import Clip
    from robometer_rl.models.robometer.adapters import adapter_of
    from robometer_rl.models.robometer.checkpoint import SETTINGS_FILE, load_checkpoint
    from robometer_rl.models.robometer.inference import Robometer
    from robometer_rl.models.robometer.processing import PREPROCESSOR_FILE

    for name in (SETTINGS_FILE, PREPROCESSOR_FILE):
        if not (directory / name).is_file():
            raise PublishError(f"{directory} has no {name} of its own; load it and save it with save_checkpoint first")
    checkpoint = load_checkpoint(directory)
    adapter = adapter_of(checkpoint.network)
    base = None if adapter is None else adapter.lora.base_model_name_or_path
    if base is not None and Path(base).exists():
        raise PublishError(
            f"the adapter in {directory} refers to its base by the directory {base}, which nobody else has; publish "
            "the base and train from its name on the Hub, or save the adapter with base_model_name_or_path=None"
        )
    model = Robometer(checkpoint, str(directory), directory.name)
    # Raises if an output is not a number.
    model.predict([Clip(np.zeros((2, 64, 64, 3), np.uint8), "open the drawer")])
    return model


def _evaluation(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise PublishError(f"there is no evaluation at {path}; make one with robometer-rl evaluate")
    content = json.loads(path.read_text())
    if not isinstance(content, dict) or "metrics" not in content or "protocol" not in content:
        raise PublishError(f"{path} is not what robometer-rl evaluate writes")
    return content


def _push(config: PublishConfig, release: Release) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    hub = HfApi()
    hub.create_repo(config.repo_id, private=config.private, exist_ok=True)
    operations = [CommitOperationAdd(name, content) for name, content in release.files.items()]
    return hub.create_commit(config.repo_id, operations, commit_message=config.message).commit_url


def _text(content: Path | bytes) -> str:
    return content.decode() if isinstance(content, bytes) else content.read_text()


def _readable(size: float) -> str:
    """As the Hub shows sizes, in decimal units."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} GB"
