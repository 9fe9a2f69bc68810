"""The name that ``robometer_rl/Libero-v0`` is registered under; see `robometer_rl.data.sources.libero_env`.

The simulator lives with the other sources of trajectories, because recordings are made with it too.
"""

from __future__ import annotations

from robometer_rl.data.sources.libero_env import SUITES, LiberoEnv

__all__ = ["SUITES", "LiberoEnv"]
