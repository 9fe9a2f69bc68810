"""Simulated tasks as Gymnasium environments: ``robometer_rl/MetaWorld-v0``, ``.../Libero-v0`` and ``.../Robosuite-v0``.

Where the project is installed, Gymnasium registers them by itself (through its entry point ``gymnasium.envs``);
elsewhere importing this module does. Neither imports a simulator.
"""

from __future__ import annotations

import gymnasium as gym

__all__ = ["register"]

_ARGUMENTS = {
    # Tasks with a fixed goal have observation bounds that coincide, which Gymnasium's checker would warn of each time.
    "robometer_rl/MetaWorld-v0": {
        "entry_point": "robometer_rl.envs.metaworld:MetaWorldEnv",
        "max_episode_steps": 500,
        "disable_env_checker": True,
    },
    # The horizon that libero_90 is evaluated with; docs/libero.md lists those of the other suites.
    "robometer_rl/Libero-v0": {"entry_point": "robometer_rl.envs.libero:LiberoEnv", "max_episode_steps": 400},
    "robometer_rl/Robosuite-v0": {"entry_point": "robometer_rl.envs.robosuite:RobosuiteEnv", "max_episode_steps": 500},
}


def register() -> None:
    """Makes the environments known to `gymnasium.make`; a second call changes nothing."""
    for name, arguments in _ARGUMENTS.items():
        if name not in gym.registry:
            gym.register(name, **arguments)


register()
