"""Environments by name, held actions, and a seed for every episode."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from robometer_rl.hardening.environment import ActionRepeat, SeededEpisodes, make_environment
from tests.hardening.world import BlockWorld, make


def test_a_function_of_a_module_makes_it() -> None:
    env = make_environment("tests.hardening.world:make", {"steps": 3})
    assert isinstance(env.unwrapped, BlockWorld)
    assert env.get_wrapper_attr("_max_episode_steps") == 3


def test_an_id_is_gymnasiums_and_renders_arrays() -> None:
    gym.register("Blocks-v0", "tests.hardening.world:BlockWorld", max_episode_steps=5)
    try:
        with pytest.raises(ValueError, match=r"'Blocks-v0' cannot be made with the options \{'size': 3\}"):
            make_environment("Blocks-v0", {"size": 3})
    finally:
        gym.registry.pop("Blocks-v0")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Nothing-v7", "'Nothing-v7' is not registered .*write MODULE:Nothing-v7"),
        ("tests.nowhere:make", "there is no module 'tests.nowhere' here"),
        ("tests.hardening.world:nothing", "'tests.hardening.world:nothing' is not registered"),
        ("tests.hardening.world:make", r"cannot be made with the options \{'colour': 'red'\}"),
    ],
)
def test_what_cannot_be_made_says_why(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_environment(name, {"colour": "red"})


def test_an_action_is_held_to_the_end_of_an_episode_at_most() -> None:
    env = ActionRepeat(make(5), 3)
    env.reset(seed=0)
    start = env.get_wrapper_attr("place")
    _, _, terminated, truncated, _ = env.step(np.array([0.5], np.float32))
    assert env.get_wrapper_attr("place") == pytest.approx(start + 0.15)
    assert not terminated
    assert not truncated
    assert env.step(np.array([0.0], np.float32))[3], "after two more"


def test_each_episode_has_a_seed_of_its_own() -> None:
    env, other = SeededEpisodes(make(), 7), make()
    starts = [env.reset(seed=seed)[0] for seed in (None, 3, None)]
    assert np.array_equal(starts, [other.reset(seed=seed)[0] for seed in (7, 8, 9)])
