"""A server of the small checkpoint, and the model that it serves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from robometer_rl.models.loading import load_reward_model
from robometer_rl.models.reward_model import RewardModel
from tests.golden import CHECKPOINT
from tests.serving.servers import Running, serving


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(lambda: load_reward_model(CHECKPOINT)) as found:
        yield found


@pytest.fixture(scope="module")
def local() -> RewardModel:
    return load_reward_model(CHECKPOINT)
