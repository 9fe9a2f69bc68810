"""Learning a compact model: every frame is looked at once by a frozen image network, what follows is small."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from robometer_rl.adapting.config import AdaptConfig
from robometer_rl.adapting.examples import Example, Split
from robometer_rl.adapting.features import FeatureFiles, from_rows
from robometer_rl.adapting.learner import CHECKPOINT, JUDGING_TIME, Learned, begun_checkpoint, device_of
from robometer_rl.adapting.learning import Lesson, learn
from robometer_rl.adapting.verdict import Seen
from robometer_rl.data.trajectories import are_tiled
from robometer_rl.frames import as_frames
from robometer_rl.models.compact.checkpoint import CompactCheckpoint, CompactConfig, load_compact, save_compact
from robometer_rl.models.compact.dinov2 import Dinov2Tower, load_dinov2
from robometer_rl.models.compact.familiarity import pooled
from robometer_rl.models.compact.inference import CompactModel
from robometer_rl.models.compact.tower import Tower, pretrained_tower
from robometer_rl.report.terminal import open_console

__all__ = ["CompactLearner"]

_VIEWS: Final = 4  # of an episode: as it is, and in other lights, from other places, and with more things in it
_VIEW_TIME: Final = 0.25  # part of the time for making views
_COMPARED: Final = 16  # episodes in which features on disk are held against those of a question


class CompactLearner:
    """See `robometer_rl.adapting.learner.Learner`.

    Args:
        config: Of the run.
        tower: The frozen image network of a new model; that which ``config`` names if None.

    Raises:
        CompactCheckpointError: There is no run to go on from.
    """

    def __init__(self, config: AdaptConfig, tower: Tower | None = None) -> None:
        self._config = config
        self._tower = tower
        self._device = device_of(config)
        begun = begun_checkpoint(config)
        self._begun = None if begun is None else load_compact(begun)
        self._made: CompactCheckpoint | None = None
        self._model: CompactModel | None = None
        before = self._begun and self._begun.config
        self.trained_on: tuple[str, ...] = before.trained_on if before else ()
        self.judged_by: tuple[str, ...] = before.judged_by if before else ()
        self.options = "" if config.tower is None else f"--tower {config.tower}"
        self.facts: Mapping[str, Any] = {
            "views": "light, colour, small shifts of the camera, and things that lie about"
        }

    def learn(self, split: Split, began: float) -> Learned:
        """See `Learner.learn`.

        Raises:
            ImportError: The image network is not installed.
        """
        self._made = checkpoint = self._checkpoint([*split.training, *split.held_out])
        for part in (checkpoint.tower, checkpoint.network, checkpoint.familiarity):
            part.to(self._device)
        lessons = _look(self._config, checkpoint, split, self._device, began)
        learned = learn(
            checkpoint.network,
            lessons.training,
            lessons.held_out,
            maps=checkpoint.tower.maps,
            steps=self._config.planned_steps(len(split.training)),
            deadline=began + (1 - JUDGING_TIME) * self._config.time_limit,
            device=self._device,
            seed=self._config.seed,
        )
        _fit_familiarity(checkpoint, lessons, self._device)
        return learned

    def model(self) -> CompactModel:
        """See `Learner.model`."""
        if self._model is None:
            folder = self._config.output / CHECKPOINT
            self._model = CompactModel(self._checkpointed(), str(folder), self._config.output.name, device=self._device)
        return self._model

    def uncertainty(self, seen: Seen) -> NDArray[np.float32]:
        """See `Learner.uncertainty`: how far the heads are apart."""
        return self.model().uncertainty(seen.example.episode.clip())

    def save(self, directory: Path, threshold: float | None = None, trained: Mapping[str, Any] | None = None) -> None:
        """See `Learner.save`."""
        save_compact(directory, self._checkpointed().configured(success_threshold=threshold, trained=trained or {}))

    def _checkpointed(self) -> CompactCheckpoint:
        if self._made is None:
            raise RuntimeError("the model is there once it has learned")
        return self._made

    def _checkpoint(self, examples: Sequence[Example]) -> CompactCheckpoint:
        begun = self._begun
        tasks = {text: None for example in examples for text in example.texts}
        tiled = are_tiled(example.episode for example in examples)
        if begun is not None:
            model = CompactModel(begun, CHECKPOINT, CHECKPOINT)
            model.require_views("going on with these recordings", tiled=tiled)
            known = dict.fromkeys((*begun.config.tasks, *tasks))
            begun.network.requires_grad_(True)
            return begun.configured(tasks=tuple(known), success_threshold=None, tiled=tiled)
        tower = self._tower
        if tower is None:
            tower = pretrained_tower() if self._config.tower is None else load_dinov2(self._config.tower)
        dinov2 = tower.shape if isinstance(tower, Dinov2Tower) else None
        about = CompactConfig(tuple(tasks), resolution=tower.resolution, dinov2=dinov2, tiled=tiled)
        return CompactCheckpoint.build(about, tower)


@dataclass(frozen=True)
class _Lessons:
    training: list[Lesson]
    held_out: list[Lesson]


def _look(
    config: AdaptConfig, checkpoint: CompactCheckpoint, split: Split, device: torch.device, start: float
) -> _Lessons:
    """Features of all episodes, and of other views of those to train on as far as there is time."""
    files = FeatureFiles.beside(config.store, config.output, checkpoint.tower, device, config.seed)
    console = open_console(stderr=True)
    training = [Lesson(example, []) for example in split.training]
    held_out = [Lesson(example, []) for example in split.held_out]
    for lesson in track(training + held_out, "looking at frames", console=console, transient=True):
        lesson.views.append(files.get(lesson.example.episode.frames, 0))
    more = [(view, lesson) for view in range(1, _VIEWS) for lesson in training]
    for view, lesson in track(more, "in other lights", console=console, transient=True):
        if time.monotonic() > start + _VIEW_TIME * config.time_limit:
            break
        lesson.views.append(files.get(lesson.example.episode.frames, view))
    return _Lessons(training, held_out)


@torch.inference_mode()
def _fit_familiarity(checkpoint: CompactCheckpoint, lessons: _Lessons, device: torch.device) -> None:
    """Notes what pictures look like that the model knows; held-out ones are of the same kind.

    Features on disk are computed in 16 bits and differ from those of a question, in all pictures by about the same.
    Where little moves, that is more than pictures differ by, and must not look strange.
    """

    def means(rows: Sequence[NDArray[np.float16]]) -> torch.Tensor:
        parts = [pooled(from_rows(np.asarray(each), checkpoint.tower.maps, device)).cpu() for each in rows]
        return torch.cat(parts) if parts else torch.zeros(0, len(checkpoint.familiarity.mean))

    stored, asked = [], []
    for lesson in (lessons.held_out or lessons.training)[:_COMPARED]:
        times = [0, len(lesson.views[0]) - 1]
        frames = np.concatenate([as_frames(lesson.example.episode.frames[t : t + 1]) for t in times])
        stored.append(lesson.views[0][times])
        asked.append(pooled(checkpoint.tower(torch.from_numpy(frames).to(device))).cpu())
    known = torch.cat(asked)
    rounding = (known - means(stored)).mean(0)
    checkpoint.familiarity.cpu().fit(
        means([view for lesson in lessons.training for view in lesson.views]) + rounding,
        torch.cat([means([lesson.views[0] for lesson in lessons.held_out]) + rounding, known]),
    )
