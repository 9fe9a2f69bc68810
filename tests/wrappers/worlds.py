"""Small environments whose frames are a pure function of the episode and the step, and what they should be paid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from robometer_rl.frames import Clip
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.prediction import progress_uncertainty
from robometer_rl.rewards import RewardSpec, episode_rewards

TASK = "open the drawer"
CAMERAS = ("render", "obs/image", "info/wrist")


@dataclass(frozen=True)
class NoiseEpisode:
    """Everything that happens in the episode with this number."""

    number: int
    max_length: int
    size: int

    @cached_property
    def length(self) -> int:
        return int(self._rng(0).integers(1, self.max_length + 1))

    @cached_property
    def end(self) -> tuple[bool, bool]:
        """(terminated, truncated) of the last step."""
        return [(True, False), (False, True), (True, True)][int(self._rng(1).integers(3))]

    @cached_property
    def success(self) -> bool:
        return bool(self._rng(2).integers(2))

    @property
    def task(self) -> str:
        return f"task {self.number % 3}"

    def task_reward(self, t: int) -> float:
        return float(self._rng(3, t).integers(-4, 5)) / 4

    @lru_cache(maxsize=100_000)  # noqa: B019
    def frame(self, t: int, camera: str) -> NDArray[np.uint8]:
        frame = self._rng(4, t, CAMERAS.index(camera)).integers(0, 256, (self.size, self.size, 3), np.uint8)
        frame.flags.writeable = False
        return frame

    def _rng(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng((self.number, *purpose))


class NoiseWorld(gym.Env[Any, Any]):
    """Shows noise; which noise depends on the episode and the step only.

    ``render`` draws into one buffer, as some simulators do, and counts how often it is called.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = "rgb_array", max_length: int = 9, size: int = 8) -> None:
        self.render_mode = render_mode
        self.max_length = max_length
        image = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.observation_space = spaces.Dict({"image": image, "state": spaces.Box(-1, 1, (2,), np.float32)})
        self.action_space = spaces.Discrete(2)
        self.renders = 0
        self.instruction = ""
        self._buffer = np.zeros(image.shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        size = len(self._buffer)
        self.episode = NoiseEpisode(int(self.np_random.integers(2**31)), self.max_length, size)
        self.instruction = self.episode.task
        self.t = 0
        return self._observation(), self._info() | {"instruction": self.episode.task}

    def step(self, action: int) -> Any:
        self.t += 1
        last = self.t >= self.episode.length
        terminated, truncated = self.episode.end if last else (False, False)
        return self._observation(), self.episode.task_reward(self.t), terminated, truncated, self._info()

    def render(self) -> Any:
        self.renders += 1
        self._buffer[:] = self.episode.frame(self.t, "render")
        return self._buffer

    def _observation(self) -> dict[str, Any]:
        return {"image": self.episode.frame(self.t, "obs/image").copy(), "state": np.zeros(2, np.float32)}

    def _info(self) -> dict[str, Any]:
        return {
            "number": self.episode.number,
            "t": self.t,
            "wrist": self.episode.frame(self.t, "info/wrist").copy(),
            "is_success": self.episode.success,
        }


@dataclass(frozen=True)
class Expected:
    """What an episode should be paid, from the whole episode at once."""

    rewards: NDArray[np.float64]
    progress: NDArray[np.float64]
    success: NDArray[np.float64]
    uncertainty: NDArray[np.float32]
    reset_progress: float
    terminated: bool
    truncated: bool


@lru_cache(maxsize=10_000)
def expected_episode(
    episode: NoiseEpisode, model: RewardModel, spec: RewardSpec, cameras: tuple[str, ...], task: str
) -> Expected:
    """Scores the frames 0 .. T with `RewardModel.predict_steps` and pays with `episode_rewards`."""
    terminated, truncated = episode.end
    threshold = spec.threshold(model.success_threshold)

    def score(num_steps: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        clips = [Clip(np.stack([episode.frame(t, name) for t in range(num_steps + 1)]), task) for name in cameras]
        predictions = model.predict_steps(clips, every=spec.every)
        progress = np.stack([prediction.progress for prediction in predictions]).astype(np.float64)
        success = np.stack([np.asarray(prediction.success) for prediction in predictions]).astype(np.float64)
        bins = np.mean([prediction.progress_distribution for prediction in predictions], axis=0, dtype=np.float64)
        return progress.mean(axis=0), success.mean(axis=0), progress_uncertainty(bins)

    def pay(num_steps: int) -> Any:
        task_rewards = [episode.task_reward(t + 1) for t in range(num_steps)]
        progress, success, uncertainty = score(num_steps)
        return episode_rewards(
            spec,
            progress,
            success,
            task_rewards,
            terminated=terminated,
            threshold=threshold,
            uncertainty=uncertainty,
        )

    num_steps = episode.length
    paid = pay(num_steps)
    if spec.terminate_on_success and paid.fires.any():
        fired = int(paid.fires.argmax()) + 1
        terminated, truncated = True, truncated and fired == num_steps
        num_steps = fired
        paid = pay(num_steps)
    progress, success, uncertainty = score(num_steps)
    steps = np.arange(num_steps + 1)
    scored = np.unique(np.append(np.arange(0, num_steps + 1, spec.every), num_steps))
    held = np.searchsorted(scored, steps, side="right") - 1
    return Expected(
        paid.rewards, progress[held], success[held], uncertainty[held], float(progress[0]), terminated, truncated
    )


class BrightnessWorld(gym.Env[Any, Any]):
    """Shows frames of given brightness, one after the other; the image is the observation and the rendering."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        levels: Sequence[int] = (0, 51, 102, 153, 204, 255),
        render_mode: str | None = "rgb_array",
        terminates: bool = True,
        shape: tuple[int, ...] = (8, 8, 3),
    ) -> None:
        self.levels = levels
        self.render_mode = render_mode
        self.terminates = terminates
        self.shape = shape
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space = spaces.Discrete(2)
        self.renders = 0
        self.resets = 0
        self.t = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.resets += 1
        self.t = 0
        return self._image(), {}

    def step(self, action: int) -> Any:
        self.t += 1
        last = self.t >= len(self.levels) - 1
        return self._image(), 1.0, last and self.terminates, last and not self.terminates, {"success": float(last)}

    def render(self) -> Any:
        self.renders += 1
        return self._image()

    def _image(self) -> NDArray[np.uint8]:
        level = self.levels[min(self.t, len(self.levels) - 1)]
        return np.full(self.shape, level, np.uint8)


class FlatWorld(VectorEnv[Any, Any, Any]):
    """A vector environment without sub-environments, as simulators on accelerators are; every episode has two steps."""

    def __init__(self, autoreset_mode: Any = AutoresetMode.NEXT_STEP, renders: bool = True) -> None:
        self.metadata = {"autoreset_mode": autoreset_mode}
        self.render_mode = "rgb_array"
        self.num_envs = 2
        self.single_observation_space = spaces.Box(0, 1, (2,))
        self.observation_space = batch_space(self.single_observation_space, 2)
        self.single_action_space = spaces.Discrete(2)
        self.action_space = batch_space(self.single_action_space, 2)
        self.calls = 0
        self.t = 0
        self._renders = renders

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        self.t = 0
        return np.zeros((2, 2), np.float32), {}

    def step(self, actions: Any) -> Any:
        self.t = (self.t + 1) % 3
        done = np.full(2, self.t == 2)
        return np.zeros((2, 2), np.float32), np.zeros(2), done, np.zeros(2, bool), {"speed": 3.0}

    def render(self) -> Any:
        self.calls += 1
        return tuple(np.full((4, 4, 3), 51 * (self.t + i), np.uint8) for i in range(2)) if self._renders else None
