"""RLDS datasets, such as those of Open X-Embodiment, read through tensorflow-datasets.

A dataset is a directory that tensorflow-datasets has written: ``NAME/VERSION`` with ``features.json`` in it. An episode
is a sequence of steps; a step has an observation, which holds the pictures, and somewhere an instruction.

Pictures. Cameras are keys of ``observation``, and an episode is read as often as it is shown: by each camera that is
asked for, or by all in a tiled picture. Open X-Embodiment stores them upright; simulated datasets that others converted
may hang otherwise, hence the option ``orientation``. Channels are in the order RGB (of one dataset, which stores them
the other way round, they are exchanged). Datasets with several cameras store black pictures where one was missing; such
a view is unreadable. Pictures stay encoded until they are asked for.

Success. RLDS has no field for it. With ``success_reward``, a step with at least that ``reward`` counts; it is about the
frame after it, see `robometer_rl.formats.trajectories`. Splits that are called after outcomes say it, ``success`` and
``failure`` as in SOAR. Otherwise the quality has to be stated: the episodes of Open X-Embodiment are demonstrations.

``action`` of the steps becomes actions, and ``state`` or ``proprio`` of the observation proprioception, where they are
arrays.

Needs the extra ``rlds``: tensorflow-datasets and tensorflow, which is kept off the GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import Reading, SourceError, Unreadable
from robometer_rl.data.trajectory import QualityLabel, Trajectory
from robometer_rl.documents import brief, parse_json, read_text
from robometer_rl.extras import require
from robometer_rl.formats.conventions import (
    Assumptions,
    Shown,
    attempt_views,
    cameras_among,
    choose_cameras,
    one_or_several,
    views_of,
)
from robometer_rl.formats.dataset import RecordedEpisode, RecordedFacts
from robometer_rl.formats.trajectories import Stated, success_of_frames, trajectory_of
from robometer_rl.video import VideoError
from robometer_rl.video.images import EncodedImages
from robometer_rl.video.lazy import Orientation

__all__ = ["RldsConfig", "read_rlds"]

# Where datasets keep their instruction: in the observation or in the step, in this order of preference.
_LIBRARY: Final = "tensorflow_datasets."
_INSTRUCTIONS: Final = ("natural_language_instruction", "language_instruction", "instruction")
_PARAPHRASES: Final = ("language_instruction_2", "language_instruction_3")

_PROPRIOCEPTION: Final = ("state", "proprio")

# Stands for a size that differs between episodes.
_SOME_SIZE: Final = 64

_OUTCOMES: Final[Mapping[str, QualityLabel]] = {"success": "successful", "failure": "failure"}

_BGR: Final = frozenset({"nyu_rot_dataset_converted_externally_to_rlds"})


@dataclass(frozen=True)
class RldsConfig:
    """An RLDS dataset in the form of tensorflow-datasets, as in Open X-Embodiment; needs the extra rlds.

    Attributes:
        path: Directory of one version of the dataset, with features.json in it.
        task: The instruction of every episode; by default each episode's own.
        camera: Keys of the observation that hold the pictures, one trajectory each; may be left out if there is one.
        tile: Show the cameras in one tiled picture, the first on top, for models that are trained on such.
        orientation: "as_stored" for pictures that are upright, which is taken for granted; "flip" reverses their rows;
            "rotate" turns them by 180 degrees.
        split: Splits to read; by default train, or where there is none, those that are called after outcomes.
        quality: Quality label of all episodes; left out, success_reward decides, or a split that is called after an
            outcome.
        success_reward: Reward from which on a step counts as success.
        skill: Who acted; "expert" if every episode heads for its goal all the time, as demonstrations do.
        data_source: Tag of the data set, as training and evaluation name it; by default "oxe_" and the dataset's name.
    """

    path: Path
    task: str | None = None
    camera: tuple[str, ...] = ()
    tile: bool = False
    orientation: Orientation | None = None
    split: tuple[str, ...] = ()
    quality: QualityLabel | None = None
    success_reward: float | None = None
    skill: str | None = None
    data_source: str | None = None

    def __post_init__(self) -> None:
        one_or_several(self, "camera", "split")


@dataclass(frozen=True)
class _StepImages:
    """Encoded pictures in memory; see `robometer_rl.video.images.ImageFiles`."""

    name: str
    encoded: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.encoded)

    def __str__(self) -> str:
        return self.name

    def read(self, places: Sequence[int]) -> list[bytes]:
        return [self.encoded[place] for place in places]


def read_rlds(config: RldsConfig) -> Reading:
    """Reads the episodes in the order of the files, each as often as it is shown.

    An id consists of the data source, the split, the number of the episode in it and the camera. Unreadable are
    episodes without an instruction, or with pictures that are black or damaged, and the rest of a file that is damaged.

    Raises:
        SourceError: Not a directory of tensorflow-datasets, no such split, no such camera or several without a
            choice, or nothing that says which episodes succeeded.
        ImportError: The extra ``rlds`` is not installed.
    """
    if not (config.path / "features.json").is_file():
        raise SourceError(f"{config.path} has no features.json; expected one version of a dataset, as in bridge/1.0.0")
    _check_features(config.path / "features.json")
    _, tfds = _import_tensorflow()
    builder = tfds.builder_from_directory(config.path)
    splits = _splits(config, builder)
    _check(config, builder, splits)
    views = views_of(config.path, _cameras(config, tfds, builder), config.tile)
    orientation: Orientation = Assumptions(config.path).orientation(config.orientation)
    readers = (_Reader(config, builder.info.name, split, views, orientation) for split in splits)
    return chain.from_iterable(_read_files(reader, builder) for reader in readers)


def _splits(config: RldsConfig, builder: Any) -> tuple[str, ...]:
    """The splits to read; `SourceError` if there are none such."""
    there = sorted(builder.info.splits)
    outcomes = tuple(split for split in _OUTCOMES if split in there)
    chosen = config.split or (("train",) if "train" in there or not outcomes else outcomes)
    missing = [split for split in chosen if split not in there]
    if missing:
        raise SourceError(f"{config.path} has no split {missing[0]!r}; expected one of {there}")
    return tuple(dict.fromkeys(chosen))


def _check(config: RldsConfig, builder: Any, splits: Sequence[str]) -> None:
    """Raises `SourceError` if the dataset as a whole does not fit what was asked for."""
    if "steps" not in builder.info.features or "observation" not in builder.info.features["steps"].feature:
        raise SourceError(f"{config.path} does not consist of episodes; expected the features steps and observation")
    if config.success_reward is None:
        if config.quality is None and not set(splits) <= set(_OUTCOMES):
            raise SourceError(
                f"{config.path} does not say which episodes succeeded. State a quality ('successful' for "
                "demonstrations), or a success_reward if the reward is 1 at success"
            )
    elif "reward" not in builder.info.features["steps"].feature:
        raise SourceError(f"{config.path} has no reward to compare with {config.success_reward:g}")


def _check_features(path: Path) -> None:
    """Raises `SourceError` where it names classes of others than tensorflow-datasets, which would import them."""
    waiting: list[Any] = [parse_json(read_text(path))]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            name = value.get("pythonClassName", _LIBRARY)
            if not isinstance(name, str) or not name.startswith(_LIBRARY):
                raise SourceError(f"{path} names the class {brief(name)}; expected those of {_LIBRARY} only")
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _import_tensorflow() -> tuple[Any, Any]:
    """The modules tensorflow and tensorflow_datasets."""
    tf, tfds = require("tensorflow", "rlds"), require("tensorflow_datasets", "rlds")
    # It would reserve all the memory of a GPU, which models need.
    tf.config.set_visible_devices([], "GPU")
    return tf, tfds


def _cameras(config: RldsConfig, tfds: Any, builder: Any) -> tuple[str, ...]:
    observation: Mapping[str, Any] = builder.info.features["steps"].feature["observation"]
    # The library returns features in no particular order.
    images = {key: feature for key, feature in sorted(observation.items()) if isinstance(feature, tfds.features.Image)}
    shapes = {key: tuple(size or _SOME_SIZE for size in feature.shape) for key, feature in images.items()}
    found = cameras_among({key: ((1, *shape), np.dtype(images[key].np_dtype)) for key, shape in shapes.items()})
    return choose_cameras(config.path, found.names, config.camera, found.refused)


def _read_files(reader: _Reader, builder: Any) -> Reading:
    """Episodes file by file, so that a damaged file costs what it holds and no more."""
    tf, tfds = _import_tensorflow()
    split = reader.split
    cameras = dict.fromkeys(camera for shown in reader.views for camera in shown)
    decoders = {"steps": {"observation": {camera: tfds.decode.SkipDecoding() for camera in cameras}}}
    start = 0
    for shard, length in enumerate(builder.info.splits[split].shard_lengths):
        number, stop = start, start + length
        dataset = builder.as_dataset(split=f"{split}[{shard}shard]", decoders=decoders, shuffle_files=False)
        try:
            for episode in dataset:
                steps = list(tfds.as_numpy(episode["steps"]))
                yield from attempt_views(
                    reader.name(number),
                    reader.views,
                    lambda shown, number=number, steps=steps: reader.read(number, steps, shown),
                )
                number += 1
        except tf.errors.OpError as error:
            yield Unreadable(f"{reader.name(number)} to {stop - 1}", f"file {shard} of the split: {error.message}")
        start = stop


@dataclass(frozen=True)
class _Reader:
    config: RldsConfig
    dataset: str
    split: str
    views: tuple[Shown, ...]
    orientation: Orientation

    @property
    def data_source(self) -> str:
        return self.config.data_source or f"oxe_{self.dataset}"

    def name(self, number: int) -> str:
        return f"{self.dataset}#{self.split} {number}"

    def read(self, number: int, steps: Sequence[Mapping[str, Any]], shown: Shown) -> Trajectory:
        """One episode of its steps, as some cameras show it; `SourceError` if it is too short or has no instruction."""
        if len(steps) < 2:
            raise SourceError(f"{len(steps)} steps; expected at least 2")
        texts = [self.config.task] if self.config.task else list(_instructions(steps[0]))
        if not texts:
            raise SourceError(f"no instruction; expected one of {', '.join(_INSTRUCTIONS)} in the steps")
        facts = RecordedFacts(
            steps=np.arange(len(steps)),
            proprioception=_vectors([step["observation"] for step in steps], _PROPRIOCEPTION),
            actions=_vectors(steps, ("action",)),
            # What a split is called after is no part of the data to be kept from training.
            split="train" if self.split in _OUTCOMES else self.split,
            source=self.name(number),
            metadata={
                "format": "rlds",
                "dataset": self.dataset,
                "episode": number,
                "camera": ", ".join(shown),
            },
        )
        if self.split in _OUTCOMES and self.config.success_reward is None:
            facts["quality_label"] = _OUTCOMES[self.split]
        episode = RecordedEpisode(
            key=self.name(number),
            tasks=tuple(texts),
            cameras={camera: self._frames(number, steps, camera) for camera in shown},
            num_steps=len(steps),
            success_of_frames=self._success(steps),
            names=(self.split, f"{number:06d}", *shown),
            facts=facts,
        )
        stated = Stated(self.data_source, self.config.quality, self.config.skill)
        return trajectory_of(episode, stated, "it does not say whether it succeeded")

    def _frames(self, number: int, steps: Sequence[Mapping[str, Any]], camera: str) -> EncodedImages:
        images = _StepImages(f"{self.name(number)}, {camera}", [step["observation"][camera] for step in steps])
        frames = EncodedImages(images, self.orientation, bgr=self.dataset in _BGR)
        if not frames[0].any():
            raise VideoError(f"the first picture of {camera} is black: this episode was recorded without it")
        return frames

    def _success(self, steps: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_] | None:
        if self.config.success_reward is None:
            return None
        rewards = np.array([step["reward"] for step in steps], np.float64)
        return success_of_frames(rewards >= self.config.success_reward)


def _vectors(steps: Sequence[Mapping[str, Any]], names: Sequence[str]) -> NDArray[Any] | None:
    """(T, ...) of the first of these that is an array of numbers in the steps, and not a dictionary of such."""
    found = next((name for name in names if isinstance(steps[0].get(name), np.ndarray | np.number)), None)
    return None if found is None else np.stack([step[found] for step in steps])


def _instructions(step: Mapping[str, Any]) -> Iterator[str]:
    """The instruction, then other ways to say it, each once."""
    places = {**step, **step["observation"]}
    found = [_text(places[name]) for name in (*_INSTRUCTIONS, *_PARAPHRASES) if name in places]
    return (text for text in dict.fromkeys(found) if text)


def _text(value: Any) -> str:
    """A string, also of one that is stored as numbers of its bytes, filled up with zeros (language_table)."""
    content = bytes(value[value != 0].astype(np.uint8)) if isinstance(value, np.ndarray) else value
    return content.decode("utf-8").strip()
