"""Perturbations, under which a model is measured again: the same run in other words or by another camera."""

from __future__ import annotations

import zlib
from typing import Literal

import numpy as np

from robometer_rl.data.augment import augment_frames
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.frames import FrameSequence

__all__ = ["Condition", "frames_under", "task_under"]

Condition = Literal["recorded", "paraphrased", "jitter"]
"""``recorded`` changes nothing, ``paraphrased`` says one of the episode's other instructions, ``jitter`` changes light,
colour and the place of the camera as training does (`robometer_rl.data.augment`)."""


def task_under(condition: Condition, episode: Trajectory, seed: int) -> str:
    """The instruction that a model is given; the recorded one where the episode has no paraphrase."""
    if condition != "paraphrased" or not episode.instructions:
        return episode.task
    return episode.instructions[int(np.random.default_rng(_seed_of(episode, seed)).integers(len(episode.instructions)))]


def frames_under(condition: Condition, episode: Trajectory, seed: int) -> FrameSequence:
    """The frames that a model is shown; lazy unless the condition changes them."""
    if condition != "jitter":
        return episode.frames
    return augment_frames(episode.clip().read(), _seed_of(episode, seed))


def _seed_of(episode: Trajectory, seed: int) -> tuple[int, int]:
    """Every episode its own draw, whatever else is evaluated with it."""
    return seed, zlib.crc32(episode.id.encode())
