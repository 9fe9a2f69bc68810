"""Checkpoints of compact reward models: ``config.json`` and ``model.safetensors``, everything that they need."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from robometer_rl.documents import brief, parse_json, read_text
from robometer_rl.files import new_files, write_text
from robometer_rl.frames import parse_protocol
from robometer_rl.models.compact.dinov2 import Dinov2Shape, Dinov2Tower
from robometer_rl.models.compact.familiarity import Familiarity
from robometer_rl.models.compact.network import KeypointNetwork, NetworkShape
from robometer_rl.models.compact.tower import EfficientNetTower, Tower
from robometer_rl.models.locations import COMPACT_MODEL_TYPE

__all__ = [
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "CompactCheckpoint",
    "CompactCheckpointError",
    "CompactConfig",
    "load_compact",
    "read_compact_config",
    "save_compact",
    "write_compact_threshold",
]

CONFIG_FILE: Final = "config.json"
WEIGHTS_FILE: Final = "model.safetensors"
_VERSION: Final = 1


class CompactCheckpointError(ValueError):
    """A folder that holds no compact reward model, or a damaged one; the message names it."""


@dataclass(frozen=True)
class CompactConfig:
    """What a compact model is, besides its weights.

    Attributes:
        tasks: The instructions that it was trained on.
        shape: Size of the network.
        resolution: Side of the pictures that the image network sees.
        protocol: Which frames of a history it is shown by default.
        success_threshold: Calibrated on episodes that it was not trained on; None if it never was.
        dinov2: The image network, if it is a DINOv2; None is EfficientNet-Lite0.
        tiled: Whether it was trained on tiled pictures of several cameras, see `robometer_rl.tiles`.
        trained: What it was trained on and how good it was found to be, as plain values.
    """

    tasks: tuple[str, ...]
    shape: NetworkShape = field(default_factory=NetworkShape)
    resolution: int = 192
    protocol: str = "nested(8)"
    success_threshold: float | None = None
    dinov2: Dinov2Shape | None = None
    tiled: bool = False
    trained: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tasks or not all(isinstance(task, str) and task for task in self.tasks):
            raise ValueError(f"tasks are the instructions that a model knows, got {brief(self.tasks)}")
        if self.success_threshold is not None and not 0.0 <= self.success_threshold <= 1.0:
            raise ValueError(f"success_threshold is a probability, got {self.success_threshold!r}")
        parse_protocol(self.protocol)

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Ids of the episodes that it was trained on; empty if that was not noted."""
        return self._episodes("training")

    @property
    def judged_by(self) -> tuple[str, ...]:
        """Ids of the episodes that its best weights, threshold and verdict were found by."""
        return self._episodes("held_out")

    def _episodes(self, part: str) -> tuple[str, ...]:
        episodes = self.trained.get("episodes")
        return tuple(map(str, episodes.get(part, ()))) if isinstance(episodes, Mapping) else ()

    def to_json(self) -> str:
        """The content of `CONFIG_FILE`."""
        return json.dumps({"model_type": COMPACT_MODEL_TYPE, "version": _VERSION, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> CompactConfig:
        """The inverse of `to_json`.

        Raises:
            ValueError: Not such a configuration, or that of another version.
        """
        values = parse_json(text)
        if not isinstance(values, dict) or values.pop("model_type", None) != COMPACT_MODEL_TYPE:
            raise ValueError(f"its model_type is not {COMPACT_MODEL_TYPE!r}")
        if (version := values.pop("version", None)) != _VERSION:
            raise ValueError(f"it has version {brief(version)}; this release reads {_VERSION}")
        known = {each.name for each in fields(cls)}
        values = {"tiled": False, "dinov2": None, **values}  # not in checkpoints that are older than these
        if set(values) != known:
            raise ValueError(f"its entries are {sorted(values)}; expected {sorted(known)}")
        try:
            shape = NetworkShape(**values.pop("shape"))
            dinov2 = None if values["dinov2"] is None else Dinov2Shape(**values["dinov2"])
            return cls(**{**values, "tasks": tuple(values["tasks"]), "dinov2": dinov2}, shape=shape)
        except TypeError as error:
            raise ValueError(str(error)) from error


@dataclass(frozen=True)
class CompactCheckpoint:
    """A whole model.

    Attributes:
        config: What it is.
        tower: The frozen image network.
        network: What was trained.
        familiarity: Which pictures it knows.
    """

    config: CompactConfig
    tower: Tower
    network: KeypointNetwork
    familiarity: Familiarity

    @classmethod
    def build(cls, config: CompactConfig, tower: Tower | None = None) -> CompactCheckpoint:
        """A model with random weights, except for those of a tower that is given."""
        made = _tower(config) if tower is None else tower
        fine, coarse, _ = made.maps
        return cls(config, made, KeypointNetwork(config.shape, channels=(fine, coarse)), Familiarity(fine + coarse))

    def configured(self, **changes: Any) -> CompactCheckpoint:
        """The same weights with another configuration."""
        return replace(self, config=replace(self.config, **changes))

    def _parts(self) -> torch.nn.ModuleDict:
        return torch.nn.ModuleDict({"tower": self.tower, "network": self.network, "familiarity": self.familiarity})


def _tower(config: CompactConfig) -> Tower:
    """The image network that a configuration names, with random weights."""
    if config.dinov2 is None:
        return EfficientNetTower(config.resolution)
    return Dinov2Tower(config.dinov2, config.resolution)


def save_compact(directory: Path, checkpoint: CompactCheckpoint) -> None:
    """Writes a checkpoint that `load_compact` reads back bit for bit; the files of an earlier one are replaced.

    Raises:
        CompactCheckpointError: Weights that are no numbers.
        OSError: It cannot be written there.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint._parts().state_dict().items()}
    wrong = [name for name, tensor in state.items() if tensor.is_floating_point() and tensor.isnan().any()]
    if wrong:
        raise CompactCheckpointError(f"not saved to {directory}: {wrong[0]} holds NaN, as if training had diverged")
    with new_files(directory, last=CONFIG_FILE) as files:
        save_file(state, files / WEIGHTS_FILE)
        (files / CONFIG_FILE).write_text(checkpoint.config.to_json(), encoding="utf-8")


def load_compact(directory: Path) -> CompactCheckpoint:
    """Reads a checkpoint onto the processor.

    Raises:
        CompactCheckpointError: A file is missing, damaged, or of another kind.
    """
    config = read_compact_config(directory)
    try:
        checkpoint = CompactCheckpoint.build(config)
    except ValueError as error:
        raise CompactCheckpointError(f"{directory / CONFIG_FILE} names no image network: {error}") from error
    file = directory / WEIGHTS_FILE
    try:
        checkpoint._parts().load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        first = " ".join(str(error).split())[:300]
        raise CompactCheckpointError(f"{file} does not hold the weights of this model: {first}") from error
    for part in (checkpoint.tower, checkpoint.network, checkpoint.familiarity):
        part.eval().requires_grad_(False)
    return checkpoint


def write_compact_threshold(directory: Path, threshold: float) -> None:
    """Writes a calibrated success threshold into a checkpoint on disk; weights are not touched.

    Raises:
        CompactCheckpointError: There is no such checkpoint.
    """
    config = replace(read_compact_config(directory), success_threshold=threshold)
    write_text(directory / CONFIG_FILE, config.to_json())


def read_compact_config(directory: Path) -> CompactConfig:
    """What a checkpoint is, without its weights.

    Raises:
        CompactCheckpointError: There is no such checkpoint.
    """
    file = directory / CONFIG_FILE
    try:
        return CompactConfig.from_json(read_text(file))
    except (OSError, ValueError) as error:
        raise CompactCheckpointError(f"{file} is not that of a compact reward model: {error}") from error
