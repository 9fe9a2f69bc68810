"""Labelled datasets as offline learners read them: observations, actions, and the rewards from before and after.

Pictures are what a reward model looks at; a policy of offline reinforcement learning usually reads low-dimensional
observations beside them. Here are both rewards of every step, with these observations and the actions, of each format
that keeps them: npz, HDF5, Minari and LeRobot.

Time. An episode of N steps has N + 1 observations. Where the one after the last action was not recorded (F = T, see
`robometer_rl.formats.dataset`), the last step is left out, unless the episode terminates with it: nothing is expected
after a termination, so that the observation does not matter, and the last one that there is stands in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from robometer_rl.archives import read_arrays, read_members
from robometer_rl.data.reading import SourceError
from robometer_rl.documents import brief
from robometer_rl.formats.dataset import RelabelDataset

__all__ = ["LEARNED_FROM", "OfflineEpisode", "read_transitions"]

_MOST_LISTED: Final = 12


@dataclass(frozen=True, eq=False)
class OfflineEpisode:
    """N steps of a labelled episode.

    Attributes:
        key: `RecordedEpisode.key`.
        observations: (N + 1, D) float32.
        actions: (N, A) float32.
        rewards: (N,) float64, what a model saw.
        original_rewards: (N,) float64, what the dataset paid before; None if it had no rewards.
        terminated: Whether nothing comes after the last step; otherwise it was cut off there.
        success: Whether the dataset says that the episode succeeded; None if it does not say.
    """

    key: str
    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float64]
    original_rewards: NDArray[np.float64] | None
    terminated: bool
    success: bool | None


class _Stored(NamedTuple):
    """Arrays of an episode that has T steps and F observations.

    Attributes:
        vectors: By name, whatever is (F, D) or (F,) and may be an observation.
        actions: (T, ...).
        rewards: (T,).
        progress: (F,) that a model has seen; None if none was asked.
    """

    vectors: Mapping[str, NDArray[Any]]
    actions: NDArray[Any] | None
    rewards: NDArray[Any] | None
    progress: NDArray[Any] | None


def read_transitions(dataset: RelabelDataset, observations: Sequence[str] = ()) -> Iterator[OfflineEpisode]:
    """The labelled episodes of a dataset; those without labels are left out.

    Args:
        dataset: A labelled dataset, as `robometer_rl.formats.table.open_dataset` opens it.
        observations: Names of the arrays that make an observation, side by side in this order; as the format calls
            them, below its observations (``state`` of ``obs/state``). All that there are, in alphabetical order, if
            none are named.

    Raises:
        SourceError: A format that keeps no observations, a dataset that was not labelled, or arrays that do not fit
            together.
    """
    stored = _FORMATS.get(dataset.format)
    if stored is None:
        raise SourceError(
            f"datasets of the format {dataset.format} hold no observations and actions to learn from; expected one of "
            f"{', '.join(_FORMATS)}"
        )
    labelled = False
    for key in dataset.keys:
        arrays = stored(dataset, key)
        if arrays.progress is None or not len(arrays.progress) or np.isnan(arrays.progress).any():
            continue
        labelled = True
        yield _episode(dataset, key, arrays, observations)
    if not labelled:
        raise SourceError(f"no episode of {dataset.options.path} has labels; robometer-rl relabel writes them")


def _episode(dataset: RelabelDataset, key: str, arrays: _Stored, names: Sequence[str]) -> OfflineEpisode:
    episode = dataset.episode(key)
    place = f"{key} of {dataset.options.path}"
    if arrays.actions is None or arrays.rewards is None:
        raise SourceError(f"{place} has no {'actions' if arrays.actions is None else 'rewards'} to learn from")
    steps = len(arrays.rewards)
    seen = _observations(arrays.vectors, names, episode.num_frames, place)
    if len(arrays.actions) < steps:
        raise SourceError(f"{place} has {len(arrays.actions)} actions for {steps} steps")
    if len(seen) == steps:  # what the last action led to was not recorded
        if episode.terminated:
            seen = np.concatenate([seen, seen[-1:]])
        else:
            steps -= 1
    actions = np.asarray(arrays.actions, np.float32).reshape(len(arrays.actions), -1)
    return OfflineEpisode(
        key,
        seen[: steps + 1],
        actions[:steps],
        np.asarray(arrays.rewards, np.float64)[:steps],
        None if episode.task_rewards is None else episode.task_rewards[:steps],
        episode.terminated,
        episode.success,
    )


def _observations(
    vectors: Mapping[str, NDArray[Any]], names: Sequence[str], length: int, place: str
) -> NDArray[np.float32]:
    """(F, D) of the arrays that are wanted."""
    fitting = {
        name: values
        for name, values in vectors.items()
        if values.ndim in (1, 2) and len(values) == length and values.dtype.kind in "fiub"
    }
    missing = [name for name in names if name not in fitting]
    if missing or not fitting:
        known = brief(sorted(fitting)[:_MOST_LISTED])
        raise SourceError(
            f"{place} has no observations {', '.join(missing) or 'of numbers'}, one row for each of {length} pictures; "
            f"it has {known}"
        )
    parts = [fitting[name].reshape(length, -1) for name in (names or sorted(fitting))]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _npz(dataset: RelabelDataset, key: str) -> _Stored:
    path = dataset.options.path / key
    arrays = read_arrays(path, *(name for name, member in read_members(path).items() if len(member.shape) in (1, 2)))
    known = {
        "actions": ("actions", "action"),
        "rewards": ("rewards", "reward"),
        "progress": ("robometer/progress",),
    }
    found = {what: next((arrays.pop(name) for name in names if name in arrays), None) for what, names in known.items()}
    # Of the rest what has decimals: flags, steps and labels are no observations.
    vectors = {
        name: values for name, values in arrays.items() if values.dtype.kind == "f" and not name.startswith("robometer")
    }
    return _Stored(vectors, **found)


def _hdf5(dataset: RelabelDataset, key: str) -> _Stored:
    from robometer_rl.formats.hdf5.dataset import HDF5Dataset
    from robometer_rl.formats.hdf5.files import LABELS_GROUP, read_array
    from robometer_rl.formats.minari.layout import leaves

    opened = cast("HDF5Dataset", dataset)
    places = opened.layout.places
    with opened.group(key) as group:
        vectors: dict[str, NDArray[Any]] = {}
        for place, item in leaves(group.get(places.observations, {}), "").items():
            if item.dtype.kind not in "fiub" or item.dtype == np.uint8 or len(item.shape) not in (1, 2):
                continue  # pictures, which may be files in rows of bytes
            if (seen := read_array(group, f"{places.observations}{place}")) is not None:
                following = read_array(group, f"next_obs{place}")
                vectors[place[1:]] = seen if following is None else np.concatenate([seen, following[-1:]])
        return _Stored(
            vectors,
            read_array(group, places.actions),
            read_array(group, "rewards"),
            read_array(group, f"{LABELS_GROUP}/progress"),
        )


def _minari(dataset: RelabelDataset, key: str) -> _Stored:
    from robometer_rl.formats.minari.layout import leaves
    from robometer_rl.formats.minari.reader import MinariLabelDataset, stored_episode

    opened = cast("MinariLabelDataset", dataset)
    content = stored_episode(opened.folder, opened.numbers[key])
    vectors = {
        place.removeprefix("obs").lstrip("/") or "obs": np.asarray(values)
        for place, values in leaves(content["observations"], "obs").items()
    }
    progress = (content["infos"] or {}).get("robometer_progress")
    return _Stored(vectors, np.asarray(content["actions"]), np.asarray(content["rewards"]), progress)


def _lerobot(dataset: RelabelDataset, key: str) -> _Stored:
    from robometer_rl.formats.lerobot.labels import PROGRESS, REWARD
    from robometer_rl.formats.lerobot.reader import LeRobotDataset

    layout = cast("LeRobotDataset", dataset).layout
    prefix = "observation."
    numbers = [
        name
        for name, feature in layout.features.items()
        if name.startswith(prefix) and "float" in str(feature["dtype"]) and len(feature["shape"]) == 1
    ]
    labels = [name for name in ("action", REWARD, PROGRESS) if name in layout.features]
    rows = layout.rows(layout[dataset.keys.index(key)], [*numbers, *labels])
    found = {name: rows.values(name) for name in (*numbers, *labels)}
    vectors = {name.removeprefix(prefix): found[name] for name in numbers}
    return _Stored(vectors, found.get("action"), found.get(REWARD), found.get(PROGRESS))


_FORMATS: Final[Mapping[str, Callable[[RelabelDataset, str], _Stored]]] = {
    "npz": _npz,
    "hdf5": _hdf5,
    "minari": _minari,
    "lerobot": _lerobot,
}

LEARNED_FROM: Final = tuple(_FORMATS)
"""Formats that keep observations and actions beside pictures."""
