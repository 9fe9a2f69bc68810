"""Runs of the reference's evaluation runner that were recorded, and the made-up model that they are about."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.trajectory import Trajectory
from robometer_rl.evaluation.published.questions import Dataset
from robometer_rl.frames import Clip, UniformFrames
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.prediction import Prediction

FILE = Path(__file__).parents[2] / "fixtures" / "evaluation" / "runner.json.gz"


@cache
def recorded() -> dict[str, Any]:
    return json.loads(gzip.decompress(FILE.read_bytes()))


class PixelReader(RewardModel):
    """The recorded runs' model: ``0.8 p / 255 + 0.15 ((len(task) p) mod 7) / 7`` of a frame whose pixels are p."""

    source = model_id = "pixel-reader"
    default_protocol = UniformFrames(8)

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[list[int]] = []

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        said = []
        for clip in clips:
            pixels = clip.read()[:, 0, 0, 0].astype(int)
            self.shown.append(pixels.tolist())
            progress = (0.8 * pixels / 255 + 0.15 * ((len(clip.task) * pixels) % 7) / 7).astype(np.float32)
            said.append(Prediction(progress, progress, np.zeros((len(pixels), 0), np.float32), "given", "pixel-reader"))
        return said

    def compare(self, pairs: Sequence[tuple[Clip, Clip]], both_orders: bool = False) -> NDArray[np.float32]:
        last = [[said.progress[-1] for said in self.predict(list(pair))] for pair in pairs]
        return np.array([float(one > other) for one, other in last], np.float32)


def dataset(*names: str) -> Dataset:
    """Recorded sets, judged jointly if there are several."""
    return Dataset(names, tuple(_trajectory(name, row) for name in names for row in recorded()["datasets"][name]))


def _trajectory(name: str, row: dict[str, Any]) -> Trajectory:
    pixels = np.array(row["pixels"], np.uint8)
    return Trajectory(
        id=row["id"],
        task=row["task"],
        frames=np.broadcast_to(pixels[:, None, None, None], (len(pixels), 4, 4, 3)).copy(),
        quality_label=row["quality_label"],
        data_source=row["data_source"],
        partial_success=row.get("partial_success"),
        source=f"processed_datasets/{name}/frames/trajectory_{row['id']}.npz",
    )
