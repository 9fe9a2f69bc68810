"""Robometer as a reward model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from robometer_rl.frames import Clip, FrameProtocol, NestedFrames, scored_steps
from robometer_rl.models.devices import precision, usable_device
from robometer_rl.models.locations import locate
from robometer_rl.models.reward_model import RewardModel, RewardStream
from robometer_rl.models.robometer.checkpoint import Checkpoint, load_checkpoint
from robometer_rl.models.robometer.nested_pass import NestedPass
from robometer_rl.models.robometer.protocol_pass import RepeatedPass
from robometer_rl.models.robometer.quantization import WeightFormat
from robometer_rl.models.robometer.readout import frame_values, probabilities
from robometer_rl.models.robometer.streaming import RobometerStream
from robometer_rl.models.robometer.threads import at_most, threads_for
from robometer_rl.prediction import Prediction, as_probabilities

__all__ = ["Robometer", "load"]

T = TypeVar("T")

# What surrounds the patches in a prompt, roughly: it only decides how many clips share a pass.
_PROMPT_TOKENS = 120
_CAPTION_TOKENS = 8


def load(
    where: str,
    device: str | torch.device = "cpu",
    dtype: str | None = None,
    attn_implementation: str = "sdpa",
    weights: WeightFormat | None = None,
    base_model: str | Path | None = None,
) -> Robometer:
    """Loads a Robometer; see `robometer_rl.load_reward_model` for the options.

    Args:
        where: ``"mini"``, a checkpoint directory, or a Hub id with an optional revision.
        device: See there, as for the others.
        dtype: See there.
        attn_implementation: See there.
        weights: See there.
        base_model: See there.
    """
    target = usable_device(device)
    found = locate(where)
    kind = precision(dtype, target)
    checkpoint = load_checkpoint(found.directory, target, kind, attn_implementation, weights, base_model)
    return Robometer(checkpoint, source=where, model_id=found.model_id, revision=found.revision)


class Robometer(RewardModel):
    """A loaded checkpoint that answers questions; see `RewardModel`.

    Args:
        checkpoint: Network and processor.
        source: What `load_reward_model` was given.
        model_id: Name recorded in outputs.
        revision: Commit on the Hub, if known.

    Attributes:
        token_budget: Tokens per pass of the decoder; bounds memory.
        threads: Threads that a call computes on when the network is on the processor, but no more than torch has (which
            `torch.set_num_threads` and ``OMP_NUM_THREADS`` set). None lets the size of the call decide: one for little
            work, such as the newest frames of robometer-mini in up to 38 environments, and all for more; see the
            module ``threads``.
    """

    token_budget: int = 8192
    threads: int | None = None

    def __init__(self, checkpoint: Checkpoint, source: str, model_id: str, revision: str | None = None) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.network = checkpoint.network
        self.processor = checkpoint.processor
        self.source = source
        self.model_id = model_id
        self.revision = revision
        self.dtype = checkpoint.precision
        self.device = str(checkpoint.network.device)
        self.bins = checkpoint.config.progress_bins if checkpoint.config.discrete else 0
        self.default_protocol = checkpoint.config.protocol
        self.success_threshold = checkpoint.config.success_threshold
        self.tiled = checkpoint.config.tiled
        self._parameters = sum(parameter.numel() for parameter in self.network.parameters())

    @torch.inference_mode()
    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        """See `RewardModel.predict`; in video mode there is one value per frame pair."""
        results: list[Prediction] = []
        for chunk in self._chunks(list(clips), self._tokens):
            with self.computing(sum(map(self._tokens, chunk))):
                output = self.network(self.processor.progress_inputs(chunk).to(self.network.device))
            counts = [sum(sides) for sides in output.sides]
            names = [f"clip {n}, frame {i}" for n, count in enumerate(counts, len(results)) for i in range(count)]
            results += _split(self._prediction(output.progress, output.success, names), counts)
        return results

    @torch.inference_mode()
    def predict_steps(
        self, clips: Sequence[Clip], protocol: FrameProtocol | None = None, every: int = 1
    ) -> list[Prediction]:
        """See `RewardModel.predict_steps`; see `nested_pass` and `protocol_pass` for how work is shared."""
        protocol = protocol or self.default_protocol
        if not self.network.reads_tokens:
            return super().predict_steps(clips, protocol, every)
        # Not its subclasses, which may have another rule.
        if type(protocol) is NestedFrames:
            scoring = NestedPass(self.network, self.processor, protocol, self.token_budget)
        else:
            scoring = RepeatedPass(self.network, self.processor, protocol, self.token_budget)
        results = []
        tokens = sum(len(scored_steps(len(clip), every)) * self._frame_tokens(clip) for clip in clips)
        with self.computing(tokens):
            for number, (clip, vectors) in enumerate(zip(clips, scoring.vectors(clips, every), strict=True)):
                names = [f"clip {number}, frame {step}" for step in scored_steps(len(clip), every).tolist()]
                values = self._prediction(*self.network.read(vectors), names)
                results.append(replace(values, protocol=str(protocol), every=every))
        return results

    @torch.inference_mode()
    def compare(self, pairs: Sequence[tuple[Clip, Clip]], both_orders: bool = False) -> NDArray[np.float32]:
        """See `RewardModel.compare`."""
        first = self._first_is_better(pairs)
        if not both_orders:
            return first
        return (first + 1.0 - self._first_is_better([(b, a) for a, b in pairs])) * np.float32(0.5)

    def stream(self, tasks: Sequence[str], protocol: FrameProtocol | None = None) -> RewardStream:
        """See `RewardModel.stream`; only what changed since the last step is computed (see `streaming`)."""
        protocol = protocol or self.default_protocol
        if not self.network.reads_tokens:
            return super().stream(tasks, protocol)
        return RobometerStream(self.network, self.processor, self.computing, tasks, protocol)

    @contextmanager
    def computing(self, tokens: int) -> Iterator[None]:
        """Holds `lock` while the network computes, on as many threads as `threads` says, or as so many tokens need."""
        count = self.threads if self.threads is not None else threads_for(self._parameters, tokens)
        with self.lock, at_most(count if self.network.device.type == "cpu" else None):
            yield

    def _first_is_better(self, pairs: Sequence[tuple[Clip, Clip]]) -> NDArray[np.float32]:
        results = np.zeros(0, np.float32)
        for chunk in self._chunks(list(pairs), lambda pair: sum(map(self._tokens, pair))):
            with self.computing(sum(self._tokens(clip) for pair in chunk for clip in pair)):
                output = self.network(self.processor.preference_inputs(chunk).to(self.network.device))
            assert output.preference is not None  # every pair prompt asks for it
            names = [f"pair {number}" for number in range(len(results), len(results) + len(chunk))]
            first = as_probabilities(probabilities(output.preference).numpy(), "a preference", names)
            results = np.concatenate([results, first])
        return results

    def _tokens(self, clip: Clip) -> int:
        """About as many tokens as a clip's prompt has."""
        return _PROMPT_TOKENS + len(clip) * self._frame_tokens(clip)

    def _frame_tokens(self, clip: Clip) -> int:
        """About as many tokens as one frame of a clip adds."""
        patcher = self.processor.patcher
        return patcher.tokens(patcher.grid(*clip.size)) + _CAPTION_TOKENS

    def _chunks(self, items: list[T], tokens: Callable[[T], int]) -> Iterator[list[T]]:
        """Items that go through the network together: padded to the longest, they fit the token budget."""
        chunk: list[T] = []
        longest = 0
        for item in items:
            longest = max(longest, tokens(item))
            if chunk and (len(chunk) + 1) * longest > self.token_budget:
                yield chunk
                chunk, longest = [], tokens(item)
            chunk.append(item)
        if chunk:
            yield chunk

    def _prediction(self, progress: torch.Tensor, success: torch.Tensor, names: Sequence[str]) -> Prediction:
        values = frame_values(self.network, progress, success, names)
        return Prediction(
            values.progress,
            values.success,
            values.progress_distribution,
            protocol="given",
            model_id=self.model_id,
            revision=self.revision,
            dtype=self.dtype,
        )


def _split(prediction: Prediction, counts: list[int]) -> Iterator[Prediction]:
    """The parts of a prediction that belong to clips of so many frames each."""
    end = 0
    for count in counts:
        part = slice(end, end + count)
        end += count
        yield replace(
            prediction,
            progress=prediction.progress[part],
            success=None if prediction.success is None else prediction.success[part],
            progress_distribution=prediction.progress_distribution[part],
        )
