"""What is exported as a LeRobot dataset, read by LeRobot itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lerobot.datasets.lerobot_dataset", reason="run by `make test-lerobot`")

from lerobot.datasets.lerobot_dataset import LeRobotDataset  # pyright: ignore[reportMissingImports]

from robometer_rl.formats.lerobot.export import ENVIRONMENT_STATE, IMAGE, LeRobotExportConfig, export_lerobot
from robometer_rl.formats.lerobot.layout import ACTION, STATE
from tests.formats import counters
from tests.formats.exported import LENGTHS, make_store

ORDER = ("a", "c", "b")


def test_lerobot_reads_frames_instructions_and_states(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    export_lerobot(LeRobotExportConfig(store.path, tmp_path / "out"))
    dataset = LeRobotDataset("tests/exported", root=tmp_path / "out")
    assert (dataset.num_episodes, len(dataset), dataset.fps) == (3, sum(LENGTHS.values()), 5)
    expected = [(store[name], step) for name in ORDER for step in range(LENGTHS[name])]
    for row, (trajectory, step) in zip(dataset, expected, strict=True):
        assert row["task"] == trajectory.task
        image = (row[IMAGE].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        assert counters.read(image) == counters.read(trajectory.frames[step : step + 1][0])
        np.testing.assert_array_equal(row[STATE].numpy(), trajectory.proprioception[step])
        np.testing.assert_array_equal(row[ENVIRONMENT_STATE].numpy(), trajectory.state[step])
        action = trajectory.actions[min(step, len(trajectory) - 2)].astype(np.float32)
        np.testing.assert_array_equal(row[ACTION].numpy(), action)
        assert bool(row["next.done"]) == (step == len(trajectory) - 1)
    assert dataset.meta.stats[IMAGE]["mean"].shape == (3, 1, 1)
    assert dataset.meta.stats[STATE]["mean"].shape == (2,)


def test_a_training_loop_takes_chunks_of_it(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    export_lerobot(LeRobotExportConfig(store.path, tmp_path / "out"))
    times = {STATE: [0.0, 0.2, 0.4]}
    dataset = LeRobotDataset("tests/exported", root=tmp_path / "out", episodes=[1, 2], delta_timestamps=times)
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=4)))
    assert batch[IMAGE].shape == (4, 3, 64, 64)
    assert batch[STATE].shape == (4, 3, 2)
