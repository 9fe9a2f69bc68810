"""What runs in the workers of Ray in tests, and a driver that can be killed.

``python -m tests.relabeling.ray_runs DATASET OUTPUT NOTES ENDLESS`` relabels on the Ray that ``RAY_ADDRESS`` names, up
to the episode whose first pixels are ENDLESS.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from robometer_rl.formats.dataset import DatasetOptions
from robometer_rl.formats.table import open_dataset
from robometer_rl.relabeling.commands import relabel
from robometer_rl.relabeling.engine import Engine, Labeller
from robometer_rl.relabeling.ray_engine import RayEngine
from tests.fixed_models import PixelModel

# So that a run consists of many packs.
PACK_TOKENS = 30


class NotingModel(PixelModel):
    """Notes in a folder that it was loaded, and what it is asked about; may die, stand still or say another name.

    A clip is told by its first pixels. ``deaths`` says how often asking about the clip ``deadly`` ends the process;
    who asks about the clip ``endless`` waits until the process is ended.
    """

    def __init__(
        self, notes: Path, deadly: bytes = b"", deaths: int = 0, endless: bytes = b"", name: str = "pixel"
    ) -> None:
        super().__init__()
        self.model_id = name
        self._notes, self._deadly, self._deaths, self._endless = notes, deadly, deaths, endless
        self._note("loads", str(os.getpid()))

    def predict_steps(self, clips, protocol=None, every=1):
        asked = [first_pixels(clip.read([0])) for clip in clips]
        for pixels in asked:
            self._note("asked", pixels.hex())
        while self._endless in asked:
            time.sleep(0.05)
        if self._deadly in asked and len(notes(self._notes, "deaths")) < self._deaths:
            self._note("deaths", str(os.getpid()))
            os._exit(1)
        return super().predict_steps(clips, protocol, every)

    def _note(self, name: str, text: str) -> None:
        # Appended in one write, so that processes do not mix their lines.
        with open(self._notes / name, "a") as file:
            file.write(f"{text}\n")


def first_pixels(frames: np.ndarray) -> bytes:
    return frames[0].tobytes()[:16]


def notes(folder: Path, name: str) -> list[str]:
    path = folder / name
    return path.read_text().split() if path.exists() else []


def without_weights() -> PixelModel:
    raise FileNotFoundError("there are no weights on this machine")


def run(folder: Path, output: Path, engine: Engine) -> None:
    _, dataset = open_dataset(DatasetOptions(folder))
    relabel(dataset, Labeller(PixelModel(), pack_tokens=PACK_TOKENS), dataset.writer("copy", output), engine=engine)


if __name__ == "__main__":
    dataset, output, noted = map(Path, sys.argv[1:4])
    run(dataset, output, RayEngine(partial(NotingModel, noted, endless=bytes.fromhex(sys.argv[4])), workers=2))
