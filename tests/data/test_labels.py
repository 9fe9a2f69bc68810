from dataclasses import replace

import numpy as np
import pytest

from robometer_rl.data.labels import ExpertStates, group_key, label_trajectories
from robometer_rl.data.targets import TargetConfig
from tests.data.episodes import make_episode, make_episodes_of_two_tasks


def _label(trajectory, references):
    return label_trajectories([trajectory], references)[0]


def test_experts_advance_linearly_until_they_are_done():
    expert = make_episode("push", "expert", 0)
    labels = _label(expert, [expert])
    np.testing.assert_allclose(labels.progress, np.minimum(np.arange(12) / 9, 1.0), atol=1e-6)
    assert labels.progress_known.all()
    assert labels.success.tolist() == [0] * 9 + [1] * 3


def test_others_are_worth_what_experts_are_worth_in_the_same_state():
    experts = [make_episode("push", "expert", number) for number in range(4)]
    halfway = make_episode("push", "stop_halfway", 9)
    progress = _label(halfway, experts).progress
    np.testing.assert_allclose(progress[:5], np.arange(5) / 9, atol=0.05)
    assert np.ptp(progress[5:]) == 0, "standing still is worth nothing more"
    assert progress[-1] == pytest.approx(4 / 9, abs=0.05)


def _pulls(number, reached=6, step=0.04):
    """An expert that needs ``reached`` of 9 frames for the way to the object and then takes it along."""
    expert = make_episode("pull", "expert", number)
    state = expert.state.copy()
    along = step * np.clip(np.arange(12) - reached, 0, 9 - reached)
    state[:, 0] = np.minimum(np.arange(12) - reached, 0) * 0.1 + along
    state[:, 4] = along
    return replace(expert, state=state)


def test_the_way_to_the_object_is_worth_a_quarter():
    expert = _pulls(0)
    progress = _label(expert, [expert]).progress
    np.testing.assert_allclose(progress[:7], 0.25 * np.arange(7) / 6, atol=1e-6)
    np.testing.assert_allclose(progress[6:], [0.25, 0.5, 0.75, 1, 1, 1], atol=1e-6)
    linear = label_trajectories([expert], config=TargetConfig(reaching=1.0))[0].progress
    np.testing.assert_allclose(linear, np.minimum(np.arange(12) / 9, 1), atol=1e-6)


def test_a_short_way_to_the_object_is_worth_its_time():
    expert = _pulls(0, reached=2)
    np.testing.assert_allclose(_label(expert, [expert]).progress, np.minimum(np.arange(12) / 9, 1), atol=1e-6)


@pytest.mark.parametrize("step", [0.0, 0.001])
def test_an_object_that_hardly_moves_does_not_bend_time(step):
    expert = _pulls(0, step=step)
    np.testing.assert_allclose(_label(expert, [expert]).progress, np.minimum(np.arange(12) / 9, 1), atol=1e-6)


def test_an_agent_at_the_object_has_reached_a_quarter_and_no_more():
    dwelling = replace(_pulls(1), skill="agent_robometer_600", success=np.zeros(12, bool), quality_label="failure")
    state = dwelling.state.copy()
    state[6:, [0, 4]] = 0.0
    progress = _label(replace(dwelling, state=state), [_pulls(number) for number in range(4)]).progress
    np.testing.assert_allclose(progress[6:], 0.25, atol=0.02)


def test_a_place_that_no_expert_visits_is_worth_nothing():
    experts = [make_episode("push", "expert", number) for number in range(4)]
    stray = make_episode("push", "stop_halfway", 1)
    state = stray.state.copy()
    state[6:, 1] = 0.4  # aside by 40 cm
    progress = _label(replace(stray, state=state), experts).progress
    assert progress[4] > 0.3
    assert progress[-1] < 0.01


def test_done_and_undone_again():
    experts = [make_episode("push", "expert", number) for number in range(2)]
    undone = make_episode("push", "expert", 2)
    state, success = undone.state.copy(), undone.success.copy()
    state[-1], success[-1] = state[3], False
    fumbled = replace(undone, state=state, success=success, skill="noisy", quality_label="suboptimal")
    labels = _label(fumbled, experts)
    assert labels.progress[-2] == 1
    assert labels.progress[-1] == pytest.approx(3 / 9, abs=0.05)
    assert labels.success.tolist()[-2:] == [1, 0]


def test_progress_without_success_never_reaches_that_of_success():
    experts = [make_episode("push", "expert", number) for number in range(2)]
    close = replace(make_episode("push", "expert", 0), success=np.zeros(12, bool), skill="noisy")
    assert _label(close, experts).progress.max() == pytest.approx(0.95)


def test_relations_that_experts_do_not_bring_about_count_less():
    """In a reaching task the object lies anywhere; only hand and goal matter."""
    experts = []
    for number in range(6):
        expert = make_episode("push", "expert", 0)
        state = expert.state.copy()
        state[:, 4:7] = np.random.default_rng(number).uniform(-0.3, 0.3, 3)
        experts.append(replace(expert, state=state))
    query = experts[0].state.copy()
    query[:, 4:7] = [0.1, 0.2, 0.0]
    progress = ExpertStates.of(experts, reaching=1.0).progress(query)
    np.testing.assert_allclose(progress, np.minimum(np.arange(12) / 9, 1.0), atol=0.15)


def test_a_success_without_state_advances_like_an_experts():
    trajectory = replace(make_episode("push", "expert", 0), skill=None, state=None)
    labels = _label(trajectory, [])
    np.testing.assert_allclose(labels.progress, np.minimum(np.arange(12) / 9, 1.0), atol=1e-6)
    assert labels.progress_known.all()


def test_a_failure_without_state_is_known_where_it_was_judged():
    success = np.arange(12) == 9
    undone = replace(
        make_episode("push", "expert", 0), skill=None, state=None, success=success, quality_label="suboptimal"
    )
    assert _label(undone, []).progress_known.tolist() == success.tolist()
    graded = _label(replace(undone, partial_success=0.4), [])
    assert graded.progress_known.tolist() == [*success[:-1].tolist(), True]
    assert graded.progress[[9, 11]].tolist() == pytest.approx([1.0, 0.4])
    assert graded.success_known.all()


def test_videos_with_a_quality_label_only():
    video = replace(make_episode("push", "expert", 0), success=None, state=None, skill=None)
    done = _label(video, [])
    np.testing.assert_allclose(done.progress, np.linspace(0, 1, 12), atol=1e-6)
    assert done.success.tolist() == [0] * 11 + [1]
    assert done.success_known.tolist() == [True] * 6 + [False] * 5 + [True]
    failed = _label(replace(video, quality_label="failure"), [])
    assert not failed.progress_known.any()
    assert failed.success_known.all()
    assert not failed.success.any()


def test_videos_are_done_after_the_cutoff_of_their_source(tmp_path):
    video = replace(
        make_episode("push", "expert", 0, 20), success=None, state=None, skill=None, data_source="oxe_droid"
    )
    done = _label(video, [])
    np.testing.assert_allclose(done.progress, np.minimum(np.arange(20) / 18, 1.0), atol=1e-6)
    assert done.success.tolist() == [0] * 18 + [1, 1]
    (tmp_path / "cutoffs.csv").write_text("data_source,fraction\noxe_droid,0.5\n")
    config = TargetConfig(cutoffs=tmp_path / "cutoffs.csv")
    assert label_trajectories([video], config=config)[0].success.sum() == 11


@pytest.mark.parametrize(
    ("quality", "data_source"), [("failure", "roboreward_bridge"), ("suboptimal", "kitchen"), ("successful", "kitchen")]
)
def test_a_graded_outcome_is_about_the_last_frame_only(quality, data_source):
    video = replace(
        make_episode("push", "expert", 0),
        success=None,
        state=None,
        skill=None,
        quality_label=quality,
        data_source=data_source,
        partial_success=0.75,
    )
    labels = _label(video, [])
    assert labels.progress_known.tolist() == [False] * 11 + [True]
    assert labels.progress.tolist() == [0] * 11 + [0.75]
    assert not labels.success.any()
    assert labels.success_known.tolist() == ([False] * 12 if quality == "successful" else [True] * 12)


def test_a_perfect_grade_is_an_ordinary_success():
    video = replace(make_episode("push", "expert", 0), success=None, state=None, skill=None)
    ordinary, graded = _label(video, []), _label(replace(video, partial_success=1.0), [])
    for name in ("progress", "progress_known", "success", "success_known"):
        np.testing.assert_array_equal(getattr(graded, name), getattr(ordinary, name), err_msg=name)


def test_attempts_at_one_task_belong_together_whatever_they_are_called():
    assert {group_key(trajectory) for trajectory in make_episodes_of_two_tasks()} == {"push", "pull"}
    anonymous = replace(make_episode("push", "expert", 0), metadata={})
    assert group_key(anonymous) == "push the block"


@pytest.mark.parametrize("reaching", [0.0, -0.1, 1.5, float("nan")])
def test_reaching_is_a_part_of_progress(reaching):
    with pytest.raises(ValueError, match="reaching is the progress of having reached the object"):
        TargetConfig(reaching=reaching)
