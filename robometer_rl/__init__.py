"""Rewards for robot learning from the Robometer video-language reward model (arXiv 2603.02115)."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from robometer_rl import moved

if TYPE_CHECKING:
    from robometer_rl.frames import Clip, NestedFrames, UniformFrames
    from robometer_rl.models.loading import load_reward_model
    from robometer_rl.models.reward_model import RewardModel
    from robometer_rl.prediction import Prediction, StepPrediction
    from robometer_rl.rewards import RewardSpec

__version__ = "0.2.0"

# Where torchao is installed (extra int8), transformers imports it, and it warns of compiled kernels that do not fit and
# of its own outdated calls. Weights in 8 bits need neither.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)

# Where each public name lives. They are imported on first use (PEP 562), so that processes which only render, such as
# the workers of a vector environment, never pay for torch and transformers.
_HOMES = {
    "Clip": "robometer_rl.frames",
    "NestedFrames": "robometer_rl.frames",
    "UniformFrames": "robometer_rl.frames",
    "Prediction": "robometer_rl.prediction",
    "StepPrediction": "robometer_rl.prediction",
    "RewardSpec": "robometer_rl.rewards",
    "RewardModel": "robometer_rl.models.reward_model",
    "load_reward_model": "robometer_rl.models.loading",
}

__all__ = [
    "Clip",
    "NestedFrames",
    "Prediction",
    "RewardModel",
    "RewardSpec",
    "StepPrediction",
    "UniformFrames",
    "load_reward_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


moved.install()


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
