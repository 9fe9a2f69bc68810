import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from robometer_rl.collecting.metaworld_policies import ExpertPolicy
from robometer_rl.envs.metaworld import (
    STATE_NAMES,
    TASKS,
    BlankFrameError,
    MetaWorldEnv,
    make_env,
    state_of,
)
from robometer_rl.frames import FrameError, as_frame

pytest.importorskip("metaworld", reason="needs the extra 'metaworld'")


@pytest.fixture(scope="module")
def drawer():
    env = make_env("drawer-open", size=64)
    yield env
    env.close()


def test_every_task_has_words_and_none_of_them_tells_mirror_images_apart():
    from metaworld.policies import ENV_POLICY_MAP

    said = [instruction for words in TASKS.values() for instruction in (words.task, *words.paraphrases)]
    assert len(set(said)) == len(said), "two tasks share an instruction"
    assert all(2 <= len(words.paraphrases) <= 4 for words in TASKS.values())
    assert not {"left", "right", "clockwise", "counterclockwise"} & set(" ".join(said).split())
    assert {f"{task}-v3" for task in TASKS} <= set(ENV_POLICY_MAP)
    assert len(TASKS) >= 45


def test_the_picture_is_the_right_way_up(drawer):
    drawer.reset(seed=0)
    frame = drawer.render()
    assert frame.shape == (64, 64, 3)
    assert frame.dtype == np.uint8
    assert frame.flags.c_contiguous
    assert frame[:8].std(axis=(0, 1)).max() < 1, "the bare wall is at the top"
    assert frame[-8:].std(axis=(0, 1)).max() > 20, "the table and the robot's base are at the bottom"


def test_the_hand_rises_in_the_picture_when_it_rises(drawer):
    heights = []
    for up in (-1.0, 1.0):
        drawer.reset(seed=0)
        for _ in range(20):
            observation, *_ = drawer.step(np.array([0.0, 0.0, up, 0.0], np.float32))
        frame = drawer.render().astype(int)
        red = frame[:, :, 0] > 90 + frame[:, :, 1]
        heights.append((observation[2], np.flatnonzero(red.any(axis=1))[0]))
    (low, low_row), (high, high_row) = heights
    assert high > low + 0.1
    assert high_row < low_row


def test_shadows_and_reflections_are_off(drawer):
    model = drawer.unwrapped._simulator.model
    assert not model.light_castshadow.any()
    assert not model.mat_reflectance.any()


def test_the_same_seed_is_the_same_episode_whatever_came_before(drawer):
    other = make_env("drawer-open", size=64)
    other.reset(seed=5)
    other.step(np.ones(4, np.float32))
    first, second = drawer.reset(seed=3)[0], other.reset(seed=3)[0]
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(drawer.render(), other.render())
    action = np.array([0.3, -0.2, -1.0, 1.0], np.float32)
    for _ in range(10):
        (first, one, *_), (second, two, *_) = drawer.step(action), other.step(action)
        np.testing.assert_array_equal(first, second)
        assert one == two
    np.testing.assert_array_equal(drawer.render(), other.render())
    other.close()
    assert not np.array_equal(drawer.reset(seed=4)[0], drawer.reset()[0]), "a reset without a seed draws a new goal"


@pytest.mark.parametrize("task", ["drawer-open", "door-open", "plate-slide"])
def test_goals_differ_and_observations_stay_in_their_space(task):
    env = make_env(task, render_mode=None)
    goals = set()
    for seed in range(3):
        observation, info = env.reset(seed=seed)
        goals.add(tuple(observation[36:39]))
        assert observation in env.observation_space
        assert info["is_success"] is False
        assert info["distance"] > 0.05
        for _ in range(3):
            observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
            assert observation in env.observation_space
            assert isinstance(reward, float)
            assert not terminated
            assert not truncated
            assert isinstance(info["is_success"], bool)
            assert info["distance"] > 0.05
    assert len(goals) > 1 or task == "plate-slide"
    env.close()


@pytest.mark.parametrize("task", ["assembly", "box-close", "disassemble", "door-open", "hammer", "lever-pull"])
def test_distance_is_known_where_the_simulator_does_not_report_it(task):
    env = make_env(task, render_mode=None)
    observation, info = env.reset(seed=0)
    expert, distances = ExpertPolicy(task), [info["distance"]]
    while not info["is_success"] and len(distances) < 250:
        observation, _, _, _, info = env.step(expert.act(observation, info["is_success"]))
        distances.append(info["distance"])
    assert info["is_success"]
    assert distances[0] > 0.08
    assert distances[-1] < 0.5 * distances[0]
    assert distances[-1] == pytest.approx(min(distances), abs=0.01)
    env.close()


def test_the_window_is_open_when_it_is_to_be_closed():
    """The simulator's own reset judges it closed: it moves the window without recomputing the scene."""
    env = make_env("window-close", size=64)
    _, info = env.reset(seed=1)
    assert not info["is_success"]
    assert info["distance"] > 0.15
    before = as_frame(env.render()).astype(int)
    _, _, _, _, info = env.step(np.zeros(4, np.float32))
    assert not info["is_success"]
    assert info["distance"] > 0.15
    assert np.abs(as_frame(env.render()) - before).mean() < 1
    env.close()


def test_the_state_is_named(drawer):
    observation, _ = drawer.reset(seed=0)
    state = state_of(observation)
    assert state.shape == (len(STATE_NAMES),) == (21,)
    assert state.dtype == np.float32
    named = dict(zip(STATE_NAMES, state, strict=True))
    np.testing.assert_allclose([named[f"hand_{axis}"] for axis in "xyz"], observation[:3], rtol=1e-6)
    np.testing.assert_allclose([named[f"goal_{axis}"] for axis in "xyz"], observation[36:39], rtol=1e-6)
    assert named["goal_y"] != 0


def test_a_picture_of_one_colour_is_an_error():
    env = make_env("drawer-open", size=64)
    simulator = env.unwrapped._simulator  # pyright: ignore[reportAttributeAccessIssue]
    simulator.model.vis.headlight.active = 0
    simulator.model.light_active[:] = 0
    simulator.model.cam_pos[:] = 1e3  # far from everything, in the dark
    env.reset(seed=0)
    with pytest.raises(BlankFrameError, match=r"drawer-open.*colour"):
        env.render()
    assert issubclass(BlankFrameError, FrameError)
    env.close()


def test_environments_of_one_process_do_not_spoil_each_others_pictures(drawer):
    drawer.reset(seed=0)
    alone = drawer.render()
    others = [make_env(task, size=48) for task in ("window-close", "door-open", "sweep")]
    pictures = []
    for other in others:
        other.reset(seed=0)
        pictures.append(other.render())
        np.testing.assert_array_equal(drawer.render(), alone)
    others.pop().close()
    np.testing.assert_array_equal(drawer.render(), alone)
    for other, picture in zip(others, pictures[:2], strict=True):
        np.testing.assert_array_equal(other.render(), picture)
        other.close()
    np.testing.assert_array_equal(drawer.render(), alone)


def test_the_spec_rebuilds_the_environment(drawer):
    assert drawer.spec is not None
    rebuilt = gym.make(drawer.spec)
    assert isinstance(rebuilt.unwrapped, MetaWorldEnv)
    assert rebuilt.unwrapped.instruction == drawer.unwrapped.instruction == "open the drawer"
    rebuilt.reset(seed=0)
    drawer.reset(seed=0)
    np.testing.assert_array_equal(rebuilt.render(), drawer.render())
    rebuilt.close()


def test_gymnasium_accepts_it():
    env = make_env("drawer-open", size=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # bounds that coincide where a goal is fixed
        check_env(env.unwrapped, skip_render_check=False)
    env.close()


def test_episodes_are_truncated_where_asked():
    env = make_env("drawer-open", max_episode_steps=4, render_mode=None)
    env.reset(seed=0)
    done = [env.step(np.zeros(4, np.float32))[3] for _ in range(4)]
    assert done == [False, False, False, True]
    env.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "drawer-open-v3"}, "unknown Meta-World task 'drawer-open-v3'.*'drawer-open'"),
        ({"task": "drawer-open", "size": 8}, "frames of 8 pixels"),
        ({"task": "drawer-open", "max_episode_steps": 501}, "max_episode_steps 501"),
    ],
)
def test_what_cannot_be_made_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_env(**arguments)


def test_an_environment_without_pictures_says_so():
    with pytest.raises(ValueError, match="render_mode 'human'"):
        MetaWorldEnv("drawer-open", render_mode="human")
    env = make_env("drawer-open", render_mode=None)
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match="render_mode"):
        env.unwrapped.render()
    env.close()
