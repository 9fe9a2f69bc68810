"""Reward models whose values are a pure function of the frames and the task, exact and cheap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from robometer_rl.frames import Clip, FrameProtocol, UniformFrames
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.prediction import Prediction


class PixelModel(RewardModel):
    """Causal, and sensitive to every frame it is shown, their order and the task.

    The value of frame i hashes the frames 0..i and the task, so that any wrong, missing, repeated or reordered frame
    changes it. Progress and success are uniform on [0, 1).
    """

    source = "tests/pixel"
    model_id = "pixel"
    bins = 2

    def __init__(self, protocol: FrameProtocol | None = None, success_threshold: float | None = None) -> None:
        super().__init__()
        self.default_protocol = protocol or UniformFrames(8)
        self.success_threshold = success_threshold
        self.calls = 0

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        self.calls += 1
        return [self._predict(clip) for clip in clips]

    def _predict(self, clip: Clip) -> Prediction:
        state = float(sum(ord(letter) for letter in clip.task)) * 0.137
        progress = []
        for frame in clip.read():
            weights = np.cos(np.arange(frame.size, dtype=np.float64))
            state = np.sin(state * 1.7 + float(frame.reshape(-1) @ weights) * 1e-2 + 0.3)
            progress.append(0.5 + 0.4999 * state)
        values = np.array(progress, np.float32)
        success = np.mod(values * np.float32(7.0), np.float32(1.0))
        return Prediction(values, success, np.stack([1 - values, values], axis=1), "given", self.model_id)


class BrightnessModel(RewardModel):
    """Progress is the mean brightness of a frame over 255, success probability its square: easy to script."""

    source = "tests/brightness"
    model_id = "brightness"
    bins = 2

    def __init__(self, protocol: FrameProtocol | None = None, success_threshold: float | None = None) -> None:
        super().__init__()
        self.default_protocol = protocol or UniformFrames(8)
        self.success_threshold = success_threshold

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        results = []
        for clip in clips:
            progress: NDArray[np.float32] = (clip.read().mean(axis=(1, 2, 3)) / 255.0).astype(np.float32)
            distribution = np.stack([1 - progress, progress], axis=1)
            results.append(Prediction(progress, progress**2, distribution, "given", self.model_id))
        return results


class BrokenModel(BrightnessModel):
    """Says something that is no progress, no probability or no number, in the last frame of every clip.

    Args:
        field: In which field of its predictions, or ``preference``.
        value: What it says.
    """

    source = "tests/broken"
    model_id = "broken"

    def __init__(self, field: str, value: float) -> None:
        super().__init__()
        self.field, self.value = field, value

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        return [self._broken(said) for said in super().predict(clips)]

    def _broken(self, said: Prediction) -> Prediction:
        if self.field == "preference":
            return said
        values = getattr(said, self.field).copy()
        values[-1] = self.value
        return replace(said, model_id=self.model_id, **{self.field: values})

    def compare(self, pairs: Sequence[tuple[Clip, Clip]], both_orders: bool = False) -> NDArray[np.float32]:
        return np.full(len(pairs), self.value if self.field == "preference" else 0.5, np.float32)
