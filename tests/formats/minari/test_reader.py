from __future__ import annotations

import json
import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer

from robometer_rl.data.reading import SourceError, Unreadable
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.formats.dataset import DatasetOptions
from robometer_rl.formats.minari.reader import MinariConfig, MinariFrames, open_dataset, read_minari
from tests.relabeling.kinds import make

SIZE = 32
IMAGE = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
ACTION = spaces.Box(-1, 1, (2,), np.float32)
STEPS = 5


def pictures(number: int, count: int = STEPS + 1) -> list[np.ndarray]:
    """A bright top row, so that it shows which way up they are, below it a shade that rises with time."""
    images = [np.full((SIZE, SIZE, 3), 20 * (number + 1) + 10 * step, np.uint8) for step in range(count)]
    for image in images:
        image[:8] = 240
    return images


def episode(number: int, observations: Any, infos: dict[str, Any] | None, steps: int = STEPS, **fields: Any):
    return EpisodeBuffer(
        id=number,
        observations=observations,
        actions=[np.zeros(2, np.float32)] * steps,
        rewards=[0.0] * steps,
        terminations=[False] * (steps - 1) + [True],
        truncations=[False] * steps,
        infos=infos,
        **fields,
    )


# Minari recommends naming authors, code and algorithm.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Minari keeps its data sets."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def create(name: str, space: spaces.Space[Any], episodes: list[EpisodeBuffer], **options: Any) -> Path:
    arguments: dict[str, Any] = {"jpeg_encoding": False} | options
    dataset = minari.create_dataset_from_buffers(
        name, episodes, observation_space=space, action_space=ACTION, **arguments
    )
    return Path(dataset.storage.data_path).parent


def read(path: Path, **options: Any) -> list[Trajectory | Unreadable]:
    arguments: dict[str, Any] = {"task": "reach the mark"} | options
    return list(read_minari(MinariConfig(path, **arguments)))


def success(*values: bool) -> dict[str, Any]:
    return {"success": list(values)}


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_image_observations_with_success_in_their_infos(root: Path, tmp_path: Path, data_format: str) -> None:
    episodes = [
        episode(0, pictures(0), success(False, False, False, False, True, True), seed=7),
        episode(1, pictures(1), success(*[False] * 6), seed=2**64 - 1),
    ]
    path = create("reach/expert-v0", IMAGE, episodes, data_format=data_format)
    first, second = read(path)
    assert isinstance(first, Trajectory)
    assert isinstance(second, Trajectory)
    np.testing.assert_array_equal(first.frames[:], pictures(0))
    assert first.success.tolist() == [False] * 4 + [True] * 2
    assert (first.quality_label, second.quality_label) == ("successful", "failure")
    assert first.steps.tolist() == list(range(6))
    assert (first.seed, second.seed) == (7, None)
    assert (first.task, first.data_source, first.skill) == ("reach the mark", "reach/expert-v0", None)
    assert first.source == "reach/expert-v0#episode_0"
    assert first.id == "reach+expert-v0-episode_0-obs"
    assert first.metadata == {"frames": "obs", "frame_interval": 1}
    store = TrajectoryStore(tmp_path / "store")
    for trajectory in (first, second):
        store.append(trajectory)
    assert len(store) == 2


def test_pictures_under_a_key_of_the_observation_may_be_turned(root: Path) -> None:
    space = spaces.Dict({"camera": IMAGE, "arm": ACTION})
    observations = {"camera": pictures(0), "arm": [np.zeros(2, np.float32)] * 6}
    path = create("reach/keys-v0", space, [episode(0, observations, success(*[True] * 6))])
    (stored,) = read(path, frames=("obs/camera",))
    (flipped,) = read(path, frames=("obs/camera",), orientation="flip")
    assert stored.frames[:1][0, :8].min() == 240
    np.testing.assert_array_equal(flipped.frames[:], stored.frames[:][:, ::-1])
    (without,) = read(path)
    assert isinstance(without, Unreadable)
    assert "['arm', 'camera']" in without.reason
    (wrong,) = read(path, frames=("obs/wrist",))
    assert isinstance(wrong, Unreadable)
    assert "obs/wrist" in wrong.reason


@pytest.mark.parametrize("recorded", [STEPS, STEPS + 1])
def test_frames_that_were_rendered_into_the_infos(root: Path, recorded: int) -> None:
    """Without the reset's info, the first frame is the one after the first action."""
    missing = STEPS + 1 - recorded
    done = [False, False, False, False, True, True][missing:]
    infos = {"frame": pictures(0)[missing:], "is_success": done}
    path = create("reach/rendered-v0", ACTION, [episode(0, [np.zeros(2, np.float32)] * 6, infos)])
    (trajectory,) = read(path, frames=("info/frame",))
    assert isinstance(trajectory, Trajectory)
    assert len(trajectory) == recorded
    assert trajectory.steps.tolist() == list(range(missing, 6))
    assert trajectory.success.tolist() == done
    np.testing.assert_array_equal(trajectory.frames[:], pictures(0)[missing:])


def test_success_without_the_resets_info_belongs_to_later_frames(root: Path) -> None:
    path = create("reach/late-v0", IMAGE, [episode(0, pictures(0), success(False, False, False, True, False))])
    (trajectory,) = read(path)
    assert trajectory.success.tolist() == [False, False, False, False, True, False]


def test_an_outcome_and_an_instruction_are_asked_for_where_none_was_recorded(root: Path) -> None:
    path = create("reach/silent-v0", IMAGE, [episode(number, pictures(number), None) for number in range(2)])
    for reading in read(path):
        assert isinstance(reading, Unreadable)
        assert "'quality'" in reading.reason
    for reading in read(path, task=None, quality="successful"):
        assert isinstance(reading, Unreadable)
        assert "'task'" in reading.reason
    dataset = minari.MinariDataset(path / "data")
    dataset.storage.update_metadata({"task": "reach somewhere"})
    dataset.storage.update_episode_metadata([{"task": "reach the red mark"}], [1])
    found = read(path, task=None, quality="suboptimal", skill="expert", data_source="ours")
    assert [each.task for each in found] == ["reach somewhere", "reach the red mark"]
    assert (found[0].quality_label, found[0].success, found[0].skill) == ("suboptimal", None, "expert")
    assert (found[0].data_source, found[0].id) == ("ours", "ours-episode_0-obs")


def test_the_environment_is_named_if_the_data_set_names_it(root: Path) -> None:
    space = gym.make("CartPole-v1").observation_space
    observations = [space.sample() for _ in range(6)]
    infos = {"frame": pictures(0)} | success(*[False] * 6)
    dataset = minari.create_dataset_from_buffers(
        "cartpole/v-v0",
        [episode(0, observations, infos)],
        env="CartPole-v1",
        observation_space=space,
        action_space=ACTION,
    )
    (trajectory,) = read(Path(dataset.storage.data_path), frames=("info/frame",))
    assert trajectory.metadata["env_id"] == "CartPole-v1"


def test_jpeg_pictures_are_decoded(root: Path) -> None:
    path = create("reach/jpeg-v0", IMAGE, [episode(0, pictures(0), success(*[True] * 6))], jpeg_encoding=True)
    (trajectory,) = read(path)
    assert np.abs(trajectory.frames[:].astype(int) - np.stack(pictures(0))).mean() < 3


def test_a_bad_episode_is_unreadable_and_the_others_are_read(root: Path) -> None:
    space = spaces.Box(0, 255, (SIZE, SIZE, 1), np.uint8)
    grey = [image[..., :1] for image in pictures(0)]
    (reading,) = read(create("reach/grey-v0", space, [episode(0, grey, success(*[True] * 6))]))
    assert isinstance(reading, Unreadable)
    assert "grey" in reading.reason
    path = create(
        "reach/odd-v0",
        IMAGE,
        [
            episode(0, pictures(0), success(True, True)),
            episode(1, pictures(1), success(*[True] * 6)),
            episode(2, pictures(2), success(*[True] * 6)),
        ],
    )
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_2/observations"]
    odd, good, incomplete = read(path)
    assert isinstance(odd, Unreadable)
    assert "2 values of 'success' for 5 steps" in odd.reason
    assert isinstance(good, Trajectory)
    assert isinstance(incomplete, Unreadable)
    assert "incomplete" in incomplete.reason


def test_frames_stay_in_the_data_set(root: Path) -> None:
    path = create("reach/lazy-v0", IMAGE, [episode(number, pictures(number), None) for number in range(2)])
    frames = [MinariFrames(path / "data", number, "obs", "as_stored") for number in range(2)]
    assert len(pickle.dumps(frames[0])) < 1000
    copy = pickle.loads(pickle.dumps(frames[0]))
    np.testing.assert_array_equal(copy[1:3], pictures(0)[1:3])
    np.testing.assert_array_equal(frames[1][-1], pictures(1)[-1])
    np.testing.assert_array_equal(np.asarray(copy)[[0, 4]], copy[[0, 4]])


@pytest.mark.parametrize("encoded", [False, True])
def test_frames_in_hdf5_are_read_a_few_at_a_time(root: Path, encoded: bool) -> None:
    shown = np.random.default_rng(0).integers(0, 256, (1200, SIZE, SIZE, 3), np.uint8)
    recorded = episode(0, list(shown), success(*[False] * 1200), steps=1199)
    path = create("reach/long-v0", IMAGE, [recorded], jpeg_encoding=encoded)
    (whole,) = minari.MinariDataset(path / "data").storage.get_episodes([0])
    tracemalloc.start()
    (trajectory,) = read(path)
    for start in range(0, 1200, 20):
        part = trajectory.frames[start : start + 20]
        np.testing.assert_array_equal(part, whole["observations"][start : start + 20])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < shown.nbytes / 4
    frames: Any = trajectory.frames  # takes more than the slices that every sequence of frames does
    np.testing.assert_array_equal(frames[[7, 3, 7, 1199]], whole["observations"][[7, 3, 7, 1199]])
    np.testing.assert_array_equal(frames[-1], whole["observations"][-1])
    assert trajectory.frames[5:5].shape == (0, SIZE, SIZE, 3)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize("encoded", [False, True])
def test_pictures_are_found_at_any_depth(root: Path, data_format: str, encoded: bool) -> None:
    """As gym-aloha and gym-xarm return them, in tuples, and in infos."""
    depth = spaces.Box(0, 65535, (SIZE, SIZE), np.uint16)
    space = spaces.Dict(
        pixels=spaces.Dict(top=IMAGE, depth=depth), views=spaces.Tuple((ACTION, spaces.Dict(wrist=IMAGE))), arm=ACTION
    )
    arms = [np.zeros(2, np.float32)] * 6
    observations = {
        "pixels": {"top": pictures(0), "depth": [np.zeros((SIZE, SIZE), np.uint16)] * 6},
        "views": (arms, {"wrist": pictures(1)}),
        "arm": arms,
    }
    infos = {"render": {"side": np.stack(pictures(2))}} | success(*[True] * 6)
    buffer = episode(0, observations, infos)
    path = create("reach/nested-v0", space, [buffer], data_format=data_format, jpeg_encoding=encoded)
    places = {"obs/pixels/top": 0, "obs/views/1/wrist": 1, "info/render/side": 2}
    for place, number in places.items():
        (trajectory,) = read(path, frames=(place,))
        assert isinstance(trajectory, Trajectory), trajectory
        difference = np.abs(trajectory.frames[:].astype(int) - np.stack(pictures(number)))
        assert difference.mean() < (3 if encoded else 1e-9)
        assert trajectory.frames.shape == (6, SIZE, SIZE, 3)
    several = read(path, frames=tuple(places))
    assert [each.metadata["frames"] for each in several] == list(places)
    dataset = open_dataset(DatasetOptions(path, tuple(places), ("reach",)))
    assert dataset.cameras == tuple(places)
    shown = dataset.episode("episode_0").cameras["info/render/side"]
    np.testing.assert_array_equal(shown[0:6], pictures(2))
    for place in ("obs/pixels/left", "obs/pixels", "obs", "info/render"):
        (wrong,) = read(path, frames=(place,))
        assert isinstance(wrong, Unreadable)
        assert "obs/pixels/top" in wrong.reason or "info/render/side" in wrong.reason
    with pytest.raises(SourceError, match="expected one of obs/pixels/top, obs/views/1/wrist"):
        open_dataset(DatasetOptions(path, ("obs/pixels/left",), ("reach",)))
    with pytest.raises(SourceError, match="'obs/pixels/depth' cannot be shown"):
        open_dataset(DatasetOptions(path, ("obs/pixels/depth",), ("reach",)))


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [((SIZE, SIZE), np.uint8, "grey"), ((SIZE, SIZE, 12), np.uint8, "on top"), ((SIZE, SIZE, 3), np.uint16, "depth")],
)
def test_what_is_no_rgb_is_refused(root: Path, data_format: str, shape: Any, dtype: Any, message: str) -> None:
    space = spaces.Box(0, 255, shape, dtype)
    path = create("reach/grey-v0", space, [episode(0, [np.zeros(shape, dtype)] * 6, None)], data_format=data_format)
    (reading,) = read(path, quality="failure")
    assert isinstance(reading, Unreadable)
    assert message in reading.reason
    with pytest.raises(SourceError, match=message):
        open_dataset(DatasetOptions(path, (), ("reach",)))


def test_a_stated_quality_wins(root: Path) -> None:
    path = create("reach/told-v0", IMAGE, [episode(0, pictures(0), success(*[False] * 6))])
    (told,) = read(path, quality="successful")
    assert (told.quality_label, told.success) == ("successful", None)
    (same,) = read(path, quality="failure")
    assert (same.quality_label, same.success.any()) == ("failure", False)


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_a_damaged_episode_in_arrow_is_listed_and_the_others_are_read(root: Path, data_format: str) -> None:
    buffers = [episode(number, pictures(number), success(*[True] * 6)) for number in range(4)]
    path = create("reach/damaged-v0", IMAGE, buffers, data_format=data_format)
    files = [next((path / "data" / str(number)).glob("*.[ap]*")) for number in range(4)]
    files[0].write_bytes(files[0].read_bytes()[:-500])
    files[1].unlink()
    (path / "data/3/metadata.json").write_text("{")
    readings = read(path)
    assert [isinstance(each, Unreadable) for each in readings] == [True, True, False, True]
    for number in (0, 1, 3):
        assert f"episode {number} of" in readings[number].reason or f"episode {number} are" in readings[number].reason


@pytest.mark.parametrize("frames", ["render", "obs//top", "info/a//b", "obs/", "info", "info/", ""])
def test_an_unknown_place_of_frames_is_refused(frames: str) -> None:
    with pytest.raises(ValueError, match="'obs/KEY'"):
        MinariConfig(Path("any"), frames=(frames,))


def test_something_else_than_a_data_set_raises_at_once(root: Path) -> None:
    with pytest.raises(SourceError, match="not a Minari data set"):
        read_minari(MinariConfig(root / "missing"))
    path = create("reach/old-v0", IMAGE, [episode(0, pictures(0), None)])
    metadata = path / "data" / "metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"minari_version": "0.1.0"}))
    with pytest.raises(SourceError, match=r"0\.1\.0"):
        read_minari(MinariConfig(path))
    metadata.write_text("{}")
    with pytest.raises(SourceError, match="not a Minari data set"):
        read_minari(MinariConfig(path))


@pytest.mark.parametrize("pattern", ["data/0/metadata.json", "data/0/*.arrow"])
def test_a_pipe_among_the_files_of_an_episode_is_not_waited_for(tmp_path, pattern):
    path = make("minari_arrow", tmp_path / "original", 2)
    (file,) = path.glob(pattern)
    file.unlink()
    os.mkfifo(file)
    first, second = read_minari(MinariConfig(path, task="reach"))
    assert isinstance(first, Unreadable)
    assert "pipe" in first.reason
    assert isinstance(second, Trajectory)
