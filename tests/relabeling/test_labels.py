from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robometer_rl.formats.dataset import EpisodeError, RecordedEpisode
from robometer_rl.frames import NestedFrames, UniformFrames
from robometer_rl.relabeling.engine import Labeller, label_dataset
from robometer_rl.relabeling.labels import label_episode
from robometer_rl.rewards import RewardSpec
from tests.fixed_models import PixelModel
from tests.relabeling.episodes import MEMORY, SPECS, TASK, MemoryDataset, live_rewards, record, without_last_frame

LENGTHS = (1, 2, 5, 9, 30)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.mode}-{spec.every}")
@pytest.mark.parametrize("protocol", [UniformFrames(4), NestedFrames(4)], ids=str)
@pytest.mark.parametrize("terminated", [True, False])
def test_a_recording_is_paid_what_the_live_wrapper_pays(spec, protocol, terminated):
    episodes = {f"{steps}": record(steps, 1, cameras=("front", "wrist"), terminated=terminated) for steps in LENGTHS}
    labels = label_dataset(MemoryDataset(episodes), Labeller(PixelModel(), spec, protocol))
    for key, recorded in episodes.items():
        expected = live_rewards(recorded, PixelModel(), spec, protocol)
        np.testing.assert_allclose(labels.episodes[key].rewards, expected, rtol=0, atol=1e-6)
        assert not labels.episodes[key].imputed.any()


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.mode}-{spec.every}")
@pytest.mark.parametrize("terminated", [True, False])
def test_without_the_last_observation_all_steps_but_the_last_are_paid_what_the_live_wrapper_pays(spec, terminated):
    episodes = {f"{steps}": record(steps, 2, terminated=terminated) for steps in LENGTHS if steps > 1}
    labels = label_dataset(MemoryDataset(episodes, has_last_frame=False), Labeller(PixelModel(), spec))
    for key, recorded in episodes.items():
        expected = live_rewards(without_last_frame(recorded), PixelModel(), spec)
        np.testing.assert_allclose(labels.episodes[key].rewards[:-1], expected, rtol=0, atol=1e-6)
        assert labels.episodes[key].imputed.tolist() == [False] * (recorded.num_steps - 1) + [True]


def imputed_reward(spec: RewardSpec, terminated: bool = True) -> float:
    """Of the last of three steps whose last observation, worth 0.6, precedes it; the task pays 1."""
    frames = np.zeros((3, 4, 4, 3), np.uint8)
    episode = RecordedEpisode("a", (TASK,), {"front": frames}, 3, np.ones(3), terminated)
    labels = label_episode(episode, spec, np.array([0.1, 0.4, 0.6]), np.array([0.0, 0.9, 0.9]), threshold=0.5)
    return float(labels.rewards[-1])


def test_the_imputed_step_repeats_the_last_prediction():
    assert imputed_reward(RewardSpec("delta")) == 0.0
    assert imputed_reward(RewardSpec("level")) == pytest.approx(0.6)
    assert imputed_reward(RewardSpec("level", unscored="zero")) == pytest.approx(0.6)
    # The rule held before it, at two frames in a row; repeating the last does not make it a third.
    assert imputed_reward(RewardSpec("success", patience=2)) == 1.0
    assert imputed_reward(RewardSpec("success", patience=3, success_bonus=5.0)) == 0.0
    shaping = RewardSpec("potential", gamma=0.9, task_weight=1.0)
    assert imputed_reward(shaping) == pytest.approx(1.0 - 0.6)
    assert imputed_reward(shaping, terminated=False) == pytest.approx(1.0 + 0.9 * 0.6 - 0.6)


def test_predictions_are_held_between_scored_observations():
    recorded = record(7, 0)
    spec = RewardSpec(every=3)
    labels = label_dataset(MemoryDataset({"a": recorded}), Labeller(PixelModel(), spec)).episodes["a"]
    assert len(labels.progress) == 8
    assert labels.progress[[0, 3, 6]].tolist() == labels.progress[[2, 5, 6]].tolist()
    assert len(set(labels.progress.tolist())) == 4


def test_several_instructions_are_averaged():
    recorded = record(4, 0)
    both, one, other = (
        label_dataset(MemoryDataset({"a": recorded}, replace(MEMORY, tasks=tasks)), Labeller(PixelModel())).episodes[
            "a"
        ]
        for tasks in (("pull", "push"), ("pull",), ("push",))
    )
    np.testing.assert_allclose(both.progress, (one.progress + other.progress) / 2, atol=1e-7)


def test_task_rewards_that_are_asked_for_must_be_there():
    frames = np.zeros((3, 4, 4, 3), np.uint8)
    episode = RecordedEpisode("a", (TASK,), {"front": frames}, 2)
    values = np.zeros(3)
    assert label_episode(episode, RewardSpec(), values, values, 0.5).rewards.tolist() == [0.0, 0.0]
    with pytest.raises(EpisodeError, match="no rewards of its own"):
        label_episode(episode, RewardSpec(task_weight=1.0), values, values, 0.5)


def test_a_recording_without_steps_is_not_paid():
    with pytest.raises(EpisodeError, match="single picture"):
        RecordedEpisode("a", (TASK,), {"front": np.zeros((1, 4, 4, 3), np.uint8)}, 1).check_steps()


@pytest.mark.parametrize("steps", [2, 3])
def test_task_rewards_that_are_no_numbers_are_refused_where_they_have_a_weight(steps):
    frames = np.zeros((3, 4, 4, 3), np.uint8)
    rewards = np.full(steps, np.nan)
    episode = RecordedEpisode("a", (TASK,), {"front": frames}, steps, task_rewards=rewards)
    values = np.array([0.0, 0.25, 0.75])
    assert label_episode(episode, RewardSpec(), values, values, 0.5).rewards[:2].tolist() == [0.25, 0.5]
    with pytest.raises(EpisodeError, match=r"own reward is nan \(step 0, 1.*task_weight=1"):
        label_episode(episode, RewardSpec(task_weight=1.0), values, values, 0.5)
