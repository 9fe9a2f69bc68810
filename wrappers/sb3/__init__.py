"""What needs Stable-Baselines3: the wrapper of its vector environments, delayed rewards, callbacks and checks."""

from robometer_rl.wrappers.sb3.record_trajectories import VecRecordTrajectories
from robometer_rl.wrappers.sb3.vec_env import VecRobometerReward
from robometer_rl.wrappers.sb3.vec_reader import layers

__all__ = ["VecRecordTrajectories", "VecRobometerReward", "layers"]
