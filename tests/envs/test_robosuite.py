"""robosuite environments. The fast part needs no simulator; the rest drives the real one and is marked slow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from robometer_rl.envs.robosuite import TASKS, RobosuiteEnv
from tests.envs.test_libero import run_python

ENV_ID = "robometer_rl.envs:robometer_rl/Robosuite-v0"


def test_the_module_imports_no_model_and_no_simulator() -> None:
    printed = run_python(
        """
        import sys
        import robometer_rl.envs.robosuite
        print(sorted({"torch", "transformers", "robosuite", "mujoco"} & set(sys.modules)))
        """
    )
    assert printed == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "lift"}, r"unknown robosuite task 'lift'; expected one of \['Lift', 'Stack'"),
        ({"task": "Lift", "render_mode": "human"}, "unknown render_mode 'human'"),
        ({"task": "Lift", "size": 8}, "frames of 8 pixels; expected at least 16"),
    ],
)
def test_wrong_arguments_are_refused_before_the_simulator_is_needed(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RobosuiteEnv(**arguments)


def test_where_robosuite_comes_from_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robometer_rl.envs.robosuite.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"robometer-rl\[robosuite\].*LIBERO, which needs 1.4.0"):
        RobosuiteEnv("Lift")


@pytest.fixture(scope="module")
def lift() -> Iterator[Any]:
    pytest.importorskip("robosuite")
    env = gym.make(ENV_ID, task="Lift", render_mode="rgb_array")
    yield env
    env.close()


def play(env: Any, seed: int, steps: int = 10) -> list[Any]:
    env.action_space.seed(seed)
    observation, info = env.reset(seed=seed)
    seen = [observation, env.render()]
    assert info == {"task": "lift the red cube", "is_success": False}
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        assert (terminated, truncated) == (False, False)
        assert 0.0 <= reward <= 1.0
        seen += [observation, reward]
    return [*seen, env.render()]


@pytest.mark.slow
def test_gymnasium_finds_nothing_wrong(lift: Any, recwarn: pytest.WarningsRecorder) -> None:
    check_env(lift.unwrapped, skip_render_check=True)
    assert [str(warning.message) for warning in recwarn if "infinity" not in str(warning.message)] == []


@pytest.mark.slow
def test_the_same_seed_is_the_same_episode_whatever_came_before(lift: Any) -> None:
    before: Any = np.random.get_state()  # noqa: NPY002
    first, other, again = play(lift, 5), play(lift, 6), play(lift, 5)
    fresh_env = gym.make(ENV_ID, task="Lift", render_mode="rgb_array")
    fresh = play(fresh_env, 5)
    fresh_env.close()
    for one, two, three in zip(first, again, fresh, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)
    assert not np.array_equal(first[0], other[0])
    after: Any = np.random.get_state()  # noqa: NPY002
    assert after[1].tolist() == before[1].tolist()


@pytest.mark.slow
def test_frames_are_upright_and_show_the_cube(lift: Any) -> None:
    """The table is below, the grey wall behind it above, and the cube is red on it."""
    lift.reset(seed=0)
    frame = lift.render().astype(int)
    assert frame.shape == (128, 128, 3)
    assert frame[100:].mean() > frame[:8].mean() + 50
    red = (frame[..., 0] > frame[..., 1] + 60) & (frame[..., 0] > frame[..., 2] + 60)
    rows, columns = np.nonzero(red)
    assert 20 < len(rows) < 500
    assert abs(columns.mean() - 64) < 25
    assert abs(rows.mean() - 68) < 25


@pytest.mark.slow
def test_success_is_a_cube_that_is_up(lift: Any) -> None:
    lift.reset(seed=0)
    simulator, layout = lift.unwrapped.simulator, lift.unwrapped.state_layout
    joint = simulator.cube.joints[0]
    for height, done in ((0.87, True), (0.82, False)):
        pose = simulator.sim.data.get_joint_qpos(joint).copy()
        pose[2] = height
        simulator.sim.data.set_joint_qpos(joint, pose)
        simulator.sim.forward()
        observation, reward, *_, info = lift.step(np.zeros(7, np.float32))
        assert info["is_success"] is done
        assert (reward == 1.0) is done
        assert observation[layout["cube_pos"]][2] == pytest.approx(height, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("task", [task for task in TASKS if task != "Lift"])
def test_every_task_is_made_and_drawn(task: str) -> None:
    pytest.importorskip("robosuite")
    env = gym.make(ENV_ID, task=task, render_mode="rgb_array", size=64)
    _, info = env.reset(seed=0)
    *_, info = env.step(env.action_space.sample())
    assert info == {"task": TASKS[task], "is_success": False}
    frame = env.render()
    assert frame.shape == (64, 64, 3)
    assert frame.std() > 10
    env.close()


@pytest.mark.slow
def test_unknown_cameras_are_named() -> None:
    pytest.importorskip("robosuite")
    with pytest.raises(ValueError, match=r"unknown camera 'front'; this scene has \['frontview', "):
        RobosuiteEnv("Lift", camera="front")
