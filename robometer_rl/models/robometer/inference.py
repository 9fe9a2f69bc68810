"""Robometer as a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from robometer_rl.frames import Clip, FrameProtocol, NestedFrames
from robometer_rl.models.reward_model import RewardModel, RewardStream
from robometer_rl.models.robometer.checkpoint import Checkpoint
from robometer_rl.models.robometer.packed import NestedPass
from robometer_rl.models.robometer.readout import frame_values, require_finite
from robometer_rl.models.robometer.repeated import RepeatedPass
from robometer_rl.models.robometer.streaming import RobometerStream
from robometer_rl.prediction import Prediction

__all__ = ["Robometer"]


class Robometer(RewardModel):
    """A loaded checkpoint that answers questions; see `RewardModel`.

    Args:
        checkpoint: Network and processor.
        source: What `load_reward_model` was given.
        model_id: Name recorded in outputs.
        revision: Commit on the Hub, if known.

    Attributes:
        token_budget: Tokens per pass of the decoder when whole episodes are scored; bounds memory.
    """

    token_budget: int = 8192

    def __init__(self, checkpoint: Checkpoint, source: str, model_id: str, revision: str | None = None) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.network = checkpoint.network
        self.processor = checkpoint.processor
        self.source = source
        self.model_id = model_id
        self.revision = revision
        self.dtype = checkpoint.precision
        self.default_protocol = checkpoint.config.protocol
        self.success_threshold = checkpoint.config.success_threshold

    @torch.inference_mode()
    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        """See `RewardModel.predict`; in video mode there is one value per frame pair."""
        if not clips:
            return []
        with self.lock:
            output = self.network(self.processor.progress_inputs(clips).to(self.network.device))
        counts = [sum(sides) for sides in output.sides]
        values = zip(output.progress.split(counts), output.success.split(counts), strict=True)
        return [self._prediction(*parts, where=f"clip {number}") for number, parts in enumerate(values)]

    @torch.inference_mode()
    def predict_steps(
        self, clips: Sequence[Clip], protocol: FrameProtocol | None = None, every: int = 1
    ) -> list[Prediction]:
        """See `RewardModel.predict_steps`; see `packed` and `repeated` for how work is shared."""
        protocol = protocol or self.default_protocol
        if not self.network.reads_tokens:
            return super().predict_steps(clips, protocol, every)
        if isinstance(protocol, NestedFrames):
            scoring = NestedPass(self.network, self.processor, protocol, self.token_budget)
        else:
            scoring = RepeatedPass(self.network, self.processor, protocol, self.token_budget)
        with self.lock:
            outputs = [self.network.read(vectors) for vectors in scoring.vectors(clips, every)]
        return [
            replace(self._prediction(*output, where=f"clip {number}"), protocol=str(protocol), every=every)
            for number, output in enumerate(outputs)
        ]

    @torch.inference_mode()
    def compare(self, pairs: Sequence[tuple[Clip, Clip]], both_orders: bool = False) -> NDArray[np.float32]:
        """See `RewardModel.compare`."""
        if not pairs:
            return np.zeros(0, np.float32)
        first = self._first_is_better(pairs)
        if not both_orders:
            return first
        return (first + 1.0 - self._first_is_better([(b, a) for a, b in pairs])) * np.float32(0.5)

    def _first_is_better(self, pairs: Sequence[tuple[Clip, Clip]]) -> NDArray[np.float32]:
        with self.lock:
            output = self.network(self.processor.preference_inputs(pairs).to(self.network.device))
        assert output.preference is not None  # every pair prompt asks for it
        logits = output.preference.float().cpu()
        require_finite("a preference", logits.numpy(), "pairs")
        return logits.sigmoid().numpy()

    def stream(self, tasks: Sequence[str], protocol: FrameProtocol | None = None) -> RewardStream:
        """See `RewardModel.stream`; only what changed since the last step is computed (see `streaming`)."""
        protocol = protocol or self.default_protocol
        if not self.network.reads_tokens:
            return super().stream(tasks, protocol)
        return RobometerStream(self.network, self.processor, self.lock, tasks, protocol)

    def _prediction(self, progress: torch.Tensor, success: torch.Tensor, where: str) -> Prediction:
        values = frame_values(self.network, progress, success, where)
        return Prediction(
            values.progress,
            values.success,
            values.progress_distribution,
            protocol="given",
            model_id=self.model_id,
            revision=self.revision,
            dtype=self.dtype,
        )
