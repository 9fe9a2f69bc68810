"""Recorded episodes for tests of relabelling, and what a live wrapper pays for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from robometer_rl.data.reading import Unreadable
from robometer_rl.formats.dataset import DatasetOptions, LabelWriter, RecordedEpisode, RelabelDataset, WriteMode
from robometer_rl.frames import FrameProtocol
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.rewards import RewardSpec
from robometer_rl.wrappers import RobometerReward

TASK = "open the drawer"
MEMORY = DatasetOptions(Path("memory"))
SPECS = [
    RewardSpec("delta"),
    RewardSpec("level", scale=2.0, task_weight=0.5, success_bonus=3.0, success_threshold=0.4, patience=1),
    RewardSpec("potential", task_weight=1.0, gamma=0.9),
    RewardSpec("success", success_threshold=0.3, every=3, unscored="zero"),
    RewardSpec("delta", every=4),
    RewardSpec("delta", confidence=0.3),
    RewardSpec("level", confidence=0.3, every=2),
]


@dataclass(frozen=True)
class Recorded:
    """An episode as an environment would have shown it: T + 1 frames by camera, T rewards, and how it ended."""

    cameras: Mapping[str, NDArray[np.uint8]]
    rewards: NDArray[np.float64]
    terminated: bool = True
    success: bool | None = None

    @property
    def num_steps(self) -> int:
        return len(self.rewards)


def record(num_steps: int, seed: int, size: int = 8, cameras: Sequence[str] = ("front",), **facts: Any) -> Recorded:
    """Noise; no two frames are alike."""
    rng = np.random.default_rng((seed, num_steps))
    frames = {name: rng.integers(0, 256, (num_steps + 1, size, size, 3), np.uint8) for name in cameras}
    return Recorded(frames, rng.integers(-4, 5, num_steps) / 4, **facts)


class Replay(gym.Env[Any, Any]):
    """Shows a recorded episode, whatever is done in it."""

    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded
        images: dict[str, spaces.Space[Any]] = {
            name: spaces.Box(0, 255, frames.shape[1:], np.uint8) for name, frames in recorded.cameras.items()
        }
        self.observation_space = spaces.Dict(images)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self._observation(), {}

    def step(self, action: int) -> Any:
        self.t += 1
        last = self.t == self.recorded.num_steps
        reward = float(self.recorded.rewards[self.t - 1])
        terminated = last and self.recorded.terminated
        return self._observation(), reward, terminated, last and not terminated, {}

    def _observation(self) -> Any:
        return {name: frames[self.t] for name, frames in self.recorded.cameras.items()}


def live_rewards(
    recorded: Recorded, model: RewardModel, spec: RewardSpec, protocol: FrameProtocol | None = None
) -> NDArray[np.float64]:
    """(T,) what the wrapper pays while the episode happens."""
    cameras = tuple(f"obs/{name}" for name in recorded.cameras)
    env = RobometerReward(Replay(recorded), model, TASK, spec, frames=cameras, protocol=protocol)
    env.reset()
    return np.array([env.step(0)[1] for _ in range(recorded.num_steps)], np.float64)


def without_last_frame(recorded: Recorded) -> Recorded:
    """What a live wrapper can see of an episode of which only T observations were recorded: T - 1 steps."""
    cameras = {name: frames[:-1] for name, frames in recorded.cameras.items()}
    return replace(recorded, cameras=cameras, rewards=recorded.rewards[:-1], terminated=False)


@dataclass
class MemoryDataset(RelabelDataset):
    """Episodes in memory; ``broken`` ones cannot be read."""

    recorded: Mapping[str, Recorded]
    options: DatasetOptions = MEMORY
    broken: frozenset[str] = frozenset()
    has_last_frame: bool = True
    opened: list[str] = field(default_factory=list)

    format = "memory"

    def __post_init__(self) -> None:
        self.keys = tuple(self.recorded)
        self.cameras = tuple(next(iter(self.recorded.values())).cameras)
        self.skipped = (Unreadable("elsewhere", "known from the start"),)

    def episode(self, key: str) -> RecordedEpisode:
        self.opened.append(key)
        if key in self.broken:
            raise ValueError("a hole in the file")
        recorded = self.recorded[key]
        stop = None if self.has_last_frame else -1
        return RecordedEpisode(
            key=key,
            tasks=self.options.tasks or (TASK,),
            cameras={name: frames[:stop] for name, frames in recorded.cameras.items()},
            num_steps=recorded.num_steps,
            task_rewards=recorded.rewards,
            terminated=recorded.terminated,
            truncated=not recorded.terminated,
            success=recorded.success,
        )

    def fingerprint(self) -> str:
        return ",".join(self.keys)

    def writer(self, mode: WriteMode, output: Path | None = None) -> LabelWriter:
        raise NotImplementedError


def write_npz(folder: Path, episodes: Mapping[str, Recorded], **facts: Any) -> None:
    """A folder of ``.npz`` episodes with one camera called ``front``."""
    folder.mkdir(parents=True)
    for name, recorded in episodes.items():
        arrays = {f"{camera}": frames for camera, frames in recorded.cameras.items()}
        flags = {} if recorded.success is None else {"success": np.array(recorded.success)}
        np.savez_compressed(
            folder / f"{name}.npz",
            allow_pickle=False,
            **arrays,
            **flags,
            rewards=recorded.rewards,
            actions=np.zeros((recorded.num_steps, 2), np.float32),
            terminated=np.array(recorded.terminated),
            truncated=np.array(not recorded.terminated),
            **({"task": np.array(TASK)} | facts),
        )
