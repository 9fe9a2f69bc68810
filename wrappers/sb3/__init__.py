"""What needs Stable-Baselines3: the wrapper of its vector environments, delayed rewards, callbacks and checks."""

from robometer_rl.wrappers.sb3.vec_env import VecRobometerReward, layers

__all__ = ["VecRobometerReward", "layers"]
