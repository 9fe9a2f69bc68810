"""Environment wrappers that pay a learned reward, and that record what a reward model learns from.

Names are imported on first use (PEP 562): worker processes that only render must not pay for a model's packages, and
Stable-Baselines3 need not be installed. The vector twin of `RobometerReward` has the same name and lives in
`robometer_rl.wrappers.vector`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import robometer_rl.envs  # noqa: F401  (registers the environments, also where the project is not installed)

if TYPE_CHECKING:
    from robometer_rl.wrappers.chunks import ActionChunk
    from robometer_rl.wrappers.frame_sources import Tiles
    from robometer_rl.wrappers.record_trajectories import RecordTrajectories
    from robometer_rl.wrappers.rendering import RenderToInfo
    from robometer_rl.wrappers.reward import RobometerReward
    from robometer_rl.wrappers.sb3.asynchronous import AsyncVecRobometerReward
    from robometer_rl.wrappers.sb3.callback import RewardHonestyCallback
    from robometer_rl.wrappers.sb3.check import check_algorithm
    from robometer_rl.wrappers.sb3.record_trajectories import VecRecordTrajectories
    from robometer_rl.wrappers.sb3.replay_buffer import LabelledDictReplayBuffer, LabelledReplayBuffer
    from robometer_rl.wrappers.sb3.vec_env import VecRobometerReward
    from robometer_rl.wrappers.tasks import TaskFromAttribute, TaskFromInfo, TaskStages, TaskToInfo

_HOMES = {
    "ActionChunk": "robometer_rl.wrappers.chunks",
    "AsyncVecRobometerReward": "robometer_rl.wrappers.sb3.asynchronous",
    "LabelledDictReplayBuffer": "robometer_rl.wrappers.sb3.replay_buffer",
    "LabelledReplayBuffer": "robometer_rl.wrappers.sb3.replay_buffer",
    "RecordTrajectories": "robometer_rl.wrappers.record_trajectories",
    "RenderToInfo": "robometer_rl.wrappers.rendering",
    "RewardHonestyCallback": "robometer_rl.wrappers.sb3.callback",
    "RobometerReward": "robometer_rl.wrappers.reward",
    "TaskFromAttribute": "robometer_rl.wrappers.tasks",
    "TaskFromInfo": "robometer_rl.wrappers.tasks",
    "TaskStages": "robometer_rl.wrappers.tasks",
    "TaskToInfo": "robometer_rl.wrappers.tasks",
    "Tiles": "robometer_rl.wrappers.frame_sources",
    "VecRecordTrajectories": "robometer_rl.wrappers.sb3.record_trajectories",
    "VecRobometerReward": "robometer_rl.wrappers.sb3.vec_env",
    "check_algorithm": "robometer_rl.wrappers.sb3.check",
}

__all__ = [
    "ActionChunk",
    "AsyncVecRobometerReward",
    "LabelledDictReplayBuffer",
    "LabelledReplayBuffer",
    "RecordTrajectories",
    "RenderToInfo",
    "RewardHonestyCallback",
    "RobometerReward",
    "TaskFromAttribute",
    "TaskFromInfo",
    "TaskStages",
    "TaskToInfo",
    "Tiles",
    "VecRecordTrajectories",
    "VecRobometerReward",
    "check_algorithm",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
