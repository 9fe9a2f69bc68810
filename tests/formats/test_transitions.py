from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from robometer_rl.data.reading import SourceError
from robometer_rl.formats.dataset import DatasetOptions, Labels, RelabelDataset
from robometer_rl.formats.table import open_dataset
from robometer_rl.formats.transitions import OfflineEpisode, read_transitions
from robometer_rl.relabeling.commands import relabel
from robometer_rl.relabeling.engine import Labeller
from tests.fixed_models import PixelModel
from tests.relabeling.episodes import TASK, record, write_npz
from tests.relabeling.kinds import FIXTURES

STEPS = 4


def labelled(path: Path, output: Path, cameras: tuple[str, ...] = ()) -> tuple[RelabelDataset, Labels]:
    _, dataset = open_dataset(DatasetOptions(path, cameras, (TASK,)))
    labels = relabel(dataset, Labeller(PixelModel()), dataset.writer("copy", output))
    assert labels is not None
    return open_dataset(DatasetOptions(output, cameras, (TASK,)))[1], labels


def write_vectors(folder: Path, length: int, terminated: bool = True) -> np.ndarray:
    """Episodes with states of two numbers, beside what else is not an observation; returns the states."""
    states = np.arange(length * 2, dtype=np.float32).reshape(length, 2)
    recorded = record(STEPS, 3, terminated=terminated)
    frames = recorded.cameras["front"][:length]
    folder.mkdir()
    np.savez(
        folder / "0.npz", front=frames, state=states, steps=np.arange(length), rewards=recorded.rewards,
        actions=np.eye(STEPS, dtype=np.float32), goal=np.full(length, 7.0), terminated=recorded.terminated,
    )  # fmt: skip
    return states


def test_an_episode_has_one_observation_more_than_steps_and_both_rewards(tmp_path: Path) -> None:
    states = write_vectors(tmp_path / "data", STEPS + 1)
    dataset, labels = labelled(tmp_path / "data", tmp_path / "labelled")
    (episode,) = read_transitions(dataset)
    goal = np.full((STEPS + 1, 1), 7.0)
    np.testing.assert_array_equal(episode.observations, np.concatenate([goal, states], axis=1))
    np.testing.assert_array_equal(episode.actions, np.eye(STEPS))
    np.testing.assert_array_equal(episode.rewards, labels.episodes["0.npz"].rewards)
    np.testing.assert_array_equal(episode.original_rewards, record(STEPS, 3).rewards)
    assert (episode.terminated, episode.success) == (True, None)
    (named,) = read_transitions(dataset, ["state"])
    np.testing.assert_array_equal(named.observations, states)


@pytest.mark.parametrize("terminated", [True, False])
def test_a_last_step_whose_outcome_was_not_recorded_is_kept_where_nothing_follows(
    tmp_path: Path, terminated: bool
) -> None:
    states = write_vectors(tmp_path / "data", STEPS, terminated=terminated)
    dataset, labels = labelled(tmp_path / "data", tmp_path / "labelled")
    (episode,) = read_transitions(dataset, ["state"])
    expected = np.concatenate([states, states[-1:]]) if terminated else states
    np.testing.assert_array_equal(episode.observations, expected)
    np.testing.assert_array_equal(episode.rewards, labels.episodes["0.npz"].rewards[: len(expected) - 1])
    assert episode.original_rewards is not None
    assert len(episode.actions) == len(episode.original_rewards) == len(expected) - 1


def read(path: Path, tmp_path: Path, camera: str) -> tuple[list[OfflineEpisode], Labels]:
    """Written under the same name, which in a file is part of the keys."""
    (tmp_path / "labelled").mkdir(exist_ok=True)
    dataset, labels = labelled(path, tmp_path / "labelled" / path.name, (camera,))
    return list(read_transitions(dataset)), labels


def test_hdf5_of_robomimic_and_libero(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    source = shutil.copytree(FIXTURES / "robomimic_hdf5", tmp_path / "robomimic") / "lift.hdf5"
    (episode, *_), labels = read(source, tmp_path, "agentview_image")
    assert episode.observations.shape == (11, 13)
    np.testing.assert_array_equal(episode.rewards, labels.episodes[episode.key].rewards)
    (source,) = (FIXTURES / "libero_hdf5").glob("*.hdf5")
    episodes, labels = read(source, tmp_path, "agentview_rgb")
    assert {each.observations.shape[1] for each in episodes} == {21}
    # A picture is missing behind the last action, which matters where the recording goes on.
    lengths = {each.key: labels.episodes[each.key].num_steps - (not each.terminated) for each in episodes}
    assert {each.key: len(each.actions) for each in episodes} == lengths


def test_lerobot(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    episodes, labels = read(FIXTURES / "lerobot_v30", tmp_path, "observation.images.top")
    assert len(episodes) == len(labels.episodes)
    for episode in episodes:
        steps = len(episode.actions)
        assert (episode.observations.shape, episode.actions.shape) == ((steps + 1, 2), (steps, 1))
        np.testing.assert_allclose(episode.rewards, labels.episodes[episode.key].rewards[:steps], atol=1e-6)
        assert episode.original_rewards is not None


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_minari_with_pictures_and_numbers_side_by_side(tmp_path: Path, data_format: str) -> None:
    pytest.importorskip("minari")
    pytest.importorskip("pyarrow" if data_format == "arrow" else "h5py")
    states = write_minari(tmp_path / "reach-v0", data_format)
    dataset, labels = labelled(tmp_path / "reach-v0", tmp_path / "reach-v1")
    (episode,) = read_transitions(dataset)
    np.testing.assert_array_equal(episode.observations, states)
    np.testing.assert_array_equal(episode.actions, np.full((STEPS, 2), 0.5))
    np.testing.assert_array_equal(episode.rewards, labels.episodes["episode_0"].rewards)
    np.testing.assert_array_equal(episode.original_rewards, np.arange(STEPS))


def write_minari(path: Path, data_format: str) -> np.ndarray:
    from importlib.metadata import version

    from gymnasium import spaces
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    frames = record(STEPS, 1, size=16).cameras["front"]
    states = np.arange(10, dtype=np.float32).reshape(5, 2)
    space = spaces.Dict(
        {"picture": spaces.Box(0, 255, (16, 16, 3), np.uint8), "state": spaces.Box(-9, 9, (2,), np.float32)}
    )
    (path / "data").mkdir(parents=True)
    storage = MinariStorage.new(
        path / "data", space, spaces.Box(-1, 1, (2,), np.float32), data_format=data_format, jpeg_encoding=False
    )
    storage.update_metadata({"dataset_id": "arm/reach-v0", "minari_version": version("minari")})
    buffer = EpisodeBuffer(
        id=0,
        seed=0,
        observations={"picture": list(frames), "state": list(states)},
        actions=[np.full(2, 0.5, np.float32)] * STEPS,
        rewards=[float(step) for step in range(STEPS)],
        terminations=[False] * (STEPS - 1) + [True],
        truncations=[False] * STEPS,
        infos={"success": [False] * (STEPS + 1)},
    )
    storage.update_episodes([buffer])
    return states


def test_what_cannot_be_learned_from_says_so(tmp_path: Path) -> None:
    write_vectors(tmp_path / "data", STEPS + 1)
    _, unlabelled = open_dataset(DatasetOptions(tmp_path / "data", (), (TASK,)))
    with pytest.raises(SourceError, match=r"no episode of .*data has labels; robometer-rl relabel writes them"):
        list(read_transitions(unlabelled))
    dataset, _ = labelled(tmp_path / "data", tmp_path / "labelled")
    with pytest.raises(SourceError, match=r"has no observations pose, one row for each of 5 pictures; it has \['goal'"):
        list(read_transitions(dataset, ["pose"]))
    write_npz(tmp_path / "pictures", {"0": record(STEPS, 3)})
    only_pictures, _ = labelled(tmp_path / "pictures", tmp_path / "labelled_pictures")
    with pytest.raises(SourceError, match="no observations of numbers"):
        list(read_transitions(only_pictures))


def test_formats_without_actions_are_refused(tmp_path: Path) -> None:
    (tmp_path / "videos.jsonl").write_text('{"video": "a.mp4", "task": "open the drawer"}\n')
    _, videos = open_dataset(DatasetOptions(tmp_path))
    with pytest.raises(SourceError, match="datasets of the format videos hold no observations and actions"):
        list(read_transitions(videos))
