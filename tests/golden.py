"""Access to the golden data in tests/fixtures/robometer_tiny: numbers recorded by running the reference."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from robometer_rl.frames import Clip
from robometer_rl.models.robometer.checkpoint import Checkpoint, load_checkpoint

FIXTURES = Path(__file__).parent / "fixtures" / "robometer_tiny"
CHECKPOINT = FIXTURES / "checkpoint"
BASE = FIXTURES / "base_processor"

# How far logits may be apart in float32; the recording machine's own attention implementations differ by 3e-6.
LOGITS = 1e-4

# How far probabilities of the same weights may be apart, whatever the batch, the pass, the number of threads, the
# processor and the place of the weights in memory: docs/protocols.md promises it.
OUTPUTS = {torch.float32: 1e-6, torch.bfloat16: 0.02}


def assert_same_outputs(logits: torch.Tensor, expected: torch.Tensor) -> None:
    """Logits of the same weights give the same probabilities."""
    torch.testing.assert_close(logits.sigmoid(), expected.sigmoid(), rtol=0, atol=OUTPUTS[expected.dtype])


def assert_same_weights(checkpoint: Checkpoint, expected: Checkpoint) -> None:
    """Weights are equal bit for bit."""
    found, wanted = checkpoint.network.state_dict(), expected.network.state_dict()
    assert found.keys() == wanted.keys()
    assert [key for key, tensor in wanted.items() if not torch.equal(found[key], tensor)] == []


@cache
def arrays(name: str) -> dict[str, NDArray[Any]]:
    """A recording."""
    with np.load(FIXTURES / f"{name}.npz") as data:
        return dict(data)


@cache
def report(name: str) -> dict[str, Any]:
    """What was noted beside a recording."""
    return json.loads((FIXTURES / f"{name}.json").read_text())


def frames(name: str) -> NDArray[np.uint8]:
    return arrays("clips")[name]


def clips(recording: str, *names: str) -> list[Clip]:
    """The clips of a recording, with its tasks."""
    return [Clip(frames(name), task) for name, task in zip(names, report(recording)["tasks"], strict=True)]


def pairs(recording: str) -> list[tuple[Clip, Clip]]:
    """The pairs of a recording in the order they were shown: chosen first, unless labelled otherwise."""
    shown = []
    for number, (task, label) in enumerate(
        zip(report(recording)["tasks"], arrays(recording)["preference_labels"], strict=True)
    ):
        sides = [Clip(frames(f"pref{number}_{side}"), task) for side in ("chosen", "rejected")]
        shown.append((sides[0], sides[1]) if label == 1 else (sides[1], sides[0]))
    return shown


@cache
def tiny() -> Checkpoint:
    """The fixture checkpoint, loaded once: not to be changed."""
    # Whoever comes first may be in inference mode, whose tensors would not do for everyone else.
    with torch.inference_mode(False):
        return load_checkpoint(CHECKPOINT)


def copy_of(source: Path, directory: Path, **settings: dict[str, Any]) -> Path:
    """A copy of a checkpoint with some settings changed, each given as section=dict(key=value)."""
    directory.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    if settings:
        config = yaml.safe_load((directory / "config.yaml").read_text())
        for section, changes in settings.items():
            config.setdefault(section, {}).update(changes)
        (directory / "config.yaml").write_text(yaml.safe_dump(config))
    return directory


def continuous(directory: Path) -> Path:
    """A copy of the fixture checkpoint with the continuous progress head."""
    copy_of(CHECKPOINT, directory, model={"progress_loss_type": "l2"})
    state = load_file(directory / "model.safetensors")
    head = load_file(FIXTURES / "continuous_progress_head.safetensors")
    save_file(state | head, directory / "model.safetensors")
    return directory
