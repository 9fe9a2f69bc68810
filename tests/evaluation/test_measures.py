from dataclasses import replace

import numpy as np
import pytest

from robometer_rl.data.trajectory import linear_progress
from robometer_rl.evaluation.measures import measure
from robometer_rl.evaluation.scoring import ScoredEpisode, ScoredPair, Scores
from tests.data.episodes import make_episode

LENGTH = 12


def scored(task, skill, number, final, quality=None, success=None, distance=None):
    """An episode whose predicted progress grows linearly to ``final``."""
    episode = make_episode(task, "expert" if skill == "expert" else "stop_halfway", number, LENGTH)
    if skill != "expert":
        done = np.zeros(LENGTH, bool) if success is None else success
        quality = quality or ("successful" if done[-1] else "failure")
        episode = replace(
            episode, skill=skill, success=done, quality_label=quality, distance=distance, id=f"{task}-{skill}-{number}"
        )
    progress = np.linspace(0.0, final, LENGTH)
    beside = {"single_frame": progress, "still": np.zeros(LENGTH)} if skill == "expert" else {}
    truth = None
    if skill == "expert":
        assert episode.success_index is not None
        truth = linear_progress(LENGTH, episode.success_index)
    return ScoredEpisode(episode, progress, np.asarray(episode.success, float), **beside, truth=truth)


def test_farming_is_what_agents_that_never_succeed_are_paid():
    achieved = np.arange(LENGTH) >= 9
    episodes = [
        scored("push", "expert", 0, 0.9),
        scored("pull", "expert", 0, 0.7),
        scored("push", "agent_sparse_early", 0, 0.2),
        scored("push", "agent_sparse_early", 1, 0.4),
        # This agent succeeds once, so its failures are not farming, nor is its task held against the others.
        scored("pull", "agent_late", 0, 0.6),
        scored("pull", "agent_late", 1, 0.8, success=achieved),
        scored("push", "random", 0, 1.0),
    ]
    metrics = measure(Scores(episodes, [], 0.5))
    assert metrics["farming_final_progress"].value == pytest.approx(0.3)
    assert metrics["farming_final_progress"].count == 2
    assert metrics["farming_max_progress"].value == pytest.approx(0.3)
    assert metrics["farming_success_progress"].value == pytest.approx(0.9), "of push alone"
    assert metrics["farming_distance_correlation"].count == 0


def test_progress_is_held_against_distance_within_episodes_and_within_tasks():
    nearer = np.linspace(1.0, 0.5, LENGTH)
    episodes = [
        scored("push", "agent", 0, 0.5, distance=nearer),
        scored("push", "agent", 1, 0.5, distance=nearer[::-1]),
        scored("push", "agent", 2, 0.5, distance=np.ones(LENGTH)),
        scored("pull", "agent", 0, 0.5, distance=nearer),
    ]
    metrics = measure(Scores(episodes, [], 0.5))
    along = metrics["farming_distance_correlation"]
    assert (along.value, along.count, along.undefined) == (pytest.approx(1 / 3), 3, 1)
    pooled = metrics["farming_distance_correlation_pooled"]
    assert 0.4 < pooled.value < 0.6, "1 for pull, nearly 0 for push"
    assert pooled.low <= pooled.value <= pooled.high


def test_progress_is_held_against_true_progress_where_it_is_known():
    agent = scored("push", "agent", 0, 0.5)
    rising = np.linspace(0.0, 1.0, LENGTH)
    episodes = [replace(agent, truth=rising), replace(agent, truth=rising[::-1]), agent]
    truth = measure(Scores(episodes, [], 0.5))["farming_truth_correlation"]
    assert (truth.value, truth.count) == (pytest.approx(0.0), 2)


def test_without_agents_nothing_is_said_about_farming():
    metrics = measure(Scores([scored("push", "expert", 0, 1.0)], [], 0.5))
    assert not [name for name in metrics if name.startswith("farming")]


def test_a_group_of_failures_is_held_against_the_successes_of_its_tasks():
    episodes = [
        scored("push", "expert", 0, 0.5),
        scored("push", "random", 0, 0.4),
        scored("push", "random", 1, 0.6),
        scored("pull", "expert", 0, 0.1),
    ]
    metrics = measure(Scores(episodes, [ScoredPair(0, 1, 0.9, 0.2), ScoredPair(0, 2, 0.4, 0.7)], 0.5), [1])
    assert (metrics["success_above_failure"].value, metrics["success_above_failure"].count) == (1.0, 1)
    assert metrics["success_fail_difference"].value == pytest.approx(0.1)
    assert metrics["preference_accuracy_both"].value == 1.0
    assert metrics["preference_accuracy_both"].count == 1
    assert metrics["voc_pearson"].count == 0
    assert "success_auroc" not in metrics, "these frames have one class only"
    assert metrics["success_rule_false_alarms"].value == 0.0


def test_final_progress_is_held_against_graded_outcomes_of_the_same_task():
    grades = {("push", 0): 0.2, ("push", 1): 0.6, ("push", 2): 0.6, ("pull", 0): 0.9}
    finals = {("push", 0): 0.3, ("push", 1): 0.8, ("push", 2): 0.3, ("pull", 0): 0.0}
    episodes = []
    for (task, number), final in finals.items():
        each = scored(task, "random", number, final)
        episodes.append(replace(each, episode=replace(each.episode, partial_success=grades[task, number])))
    metrics = measure(Scores([*episodes, scored("push", "random", 9, 1.0)], [], 0.5))
    assert metrics["graded_ranking_accuracy"].value == pytest.approx(0.75), "one pair in order, one tie"
    assert metrics["graded_ranking_accuracy"].count == 1, "pull has one grade only"
    assert metrics["graded_error"].value == pytest.approx((0.1 + 0.2 + 0.3 + 0.9) / 4)
    assert measure(Scores([scored("push", "random", 9, 1.0)], [], 0.5))["graded_error"].count == 0


def test_experts_are_correlated_with_true_progress():
    episode = scored("push", "expert", 0, 1.0)
    truth = linear_progress(LENGTH, int(episode.episode.success_index or 0))
    metrics = measure(Scores([replace(episode, progress=0.5 * truth, wrong_task=truth)], [], 0.5))
    assert metrics["voc_pearson"].value == pytest.approx(1.0)
    assert metrics["voc_pearson_clock"].value < 1.0
    bent = replace(episode, progress=truth**2, truth=truth**2)
    metrics = measure(Scores([replace(bent, wrong_task=truth)], [], 0.5))
    assert metrics["voc_pearson"].value == pytest.approx(1.0)
    assert 0.9 < metrics["voc_pearson_time"].value < 0.999
    assert metrics["wrong_task_progress"].value == 1.0


def test_patience_counts_scored_frames_and_not_those_between_them():
    once = np.repeat([0.0, 1.0, 0.0, 0.0], [5, 5, 1, 1])  # said of frame 5, and held until frame 10 is scored
    episode = replace(scored("push", "agent", 0, 0.5), success=once)
    alarms = [measure(Scores([episode], [], 0.5, every))["success_rule_false_alarms"].value for every in (1, 5)]
    assert alarms == [1.0, 0.0]
