"""A frozen policy acts alone where nothing is added, is moved within limits, and imitates what it was shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")

from stable_baselines3 import SAC

from tests.library import ROOT

sys.path.append(str(ROOT / "examples"))

import steer_frozen_policy
from steer_frozen_policy import AddsNothing, Args, Base, Steered, begin_small, clone, make_base, next_step


class Line(gym.Env[Any, Any]):
    """A place on a line; remembers what was done."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (1,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self) -> None:
        self.done: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.done.append(action)
        return np.full(1, len(self.done), np.float32), 0.0, False, len(self.done) == 5, {}


def frozen() -> Base:
    """Proposes the place, up to 1, and a half."""
    places = np.linspace(0.0, 4.0, 200, dtype=np.float32)[:, None]
    return clone(places, np.concatenate([np.minimum(places, 0.9), np.full_like(places, 0.5)], axis=1), 400, seed=0)


def test_the_frozen_policy_acts_as_it_would_alone_where_nothing_is_added() -> None:
    base, line = frozen(), Line()
    env = Steered(line, base, weight=0.5)
    observation, _ = env.reset(seed=0)
    seen = [observation]
    for _ in range(5):
        observation, *_ = env.step(AddsNothing(2).predict(observation)[0])
        seen.append(observation)
    for before, action in zip(seen, line.done, strict=False):
        np.testing.assert_array_equal(action, base.act(before[:1]))
        np.testing.assert_array_equal(before[1:], action)  # what it is about to do is seen
        assert env.observation_space.contains(before)


def test_what_is_added_is_weighted_and_stays_within_the_actions() -> None:
    base, line = frozen(), Line()
    env = Steered(line, base, weight=0.25)
    observation, _ = env.reset(seed=0)
    env.step(np.array([1.0, -1.0], np.float32))
    np.testing.assert_allclose(line.done[0], base.act(observation[:1]) + np.array([0.25, -0.25]), atol=1e-6)
    strong = Steered(line, base, weight=5.0)
    strong.reset(seed=0)
    strong.step(np.array([1.0, -1.0], np.float32))
    np.testing.assert_array_equal(line.done[1], [1.0, -1.0])
    assert line.action_space.contains(line.done[1])


def test_imitation_comes_nearer_with_more_steps_and_is_frozen() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(300, 5)).astype(np.float32)
    actions = np.tanh(states @ rng.normal(size=(5, 3))).astype(np.float32)
    errors = []
    for fit in (0, 50, 500):
        base = clone(states, actions, fit, seed=0)
        errors.append(float(np.mean((base(torch.as_tensor(states)).numpy() - actions) ** 2)))
        assert not any(parameter.requires_grad for parameter in base.parameters())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_an_agent_adds_nearly_nothing_at_first() -> None:
    env = Steered(Line(), frozen(), weight=0.5)
    agent = SAC("MlpPolicy", env, seed=0, device="cpu")
    begin_small(agent)
    observation, _ = env.reset(seed=0)
    assert np.abs(agent.predict(observation, deterministic=True)[0]).max() < 0.05
    noise = np.stack([agent.predict(observation)[0] for _ in range(200)])
    assert 0.2 < noise.std() < 0.45


def test_a_run_ends_with_what_to_do_next() -> None:
    assert "--arm sparse" in next_step(Args(), alone=0.4, steered=0.8)
    assert "--arm robometer_sparse" in next_step(Args(arm="sparse"), alone=0.4, steered=0.8)
    assert "did not help" in next_step(Args(), alone=0.4, steered=0.4)
    assert "fewer --demonstrations" in next_step(Args(), alone=1.0, steered=1.0)


def test_a_frozen_policy_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(size=(50, 3)).astype(np.float32), rng.uniform(-1, 1, (50, 2)).astype(np.float32)
    monkeypatch.setattr(steer_frozen_policy, "demonstrations", lambda args: data)
    monkeypatch.setattr(steer_frozen_policy, "make_task", lambda *_, **__: Line())
    monkeypatch.setattr(steer_frozen_policy, "evaluate", lambda *_: 0.4)
    args = Args(output=tmp_path, fit=20)
    base, success = make_base(args)
    monkeypatch.setattr(steer_frozen_policy, "evaluate", None)  # not called again
    again, kept = make_base(args)
    assert success == kept == 0.4
    np.testing.assert_array_equal(again.act(data[0][0]), base.act(data[0][0]))
    with pytest.raises(ValueError, match=r"'fit': 20.*got .*'fit': 30.*choose another --output"):
        make_base(Args(output=tmp_path, fit=30))


@pytest.mark.slow
def test_a_policy_is_made_frozen_and_steered_in_libero(tmp_path: Path) -> None:
    pytest.importorskip("libero")
    checkpoint = ROOT / "tests" / "fixtures" / "robometer_tiny" / "checkpoint"
    words = ["--smoke", "--output", str(tmp_path), "--arm", "robometer_sparse", "--model", str(checkpoint)]
    command = [sys.executable, str(ROOT / "examples" / "steer_frozen_policy.py"), *words]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl"}

    def said() -> str:
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    shown, kept = said(), tmp_path / "smoke" / "libero_90-28-robometer_sparse-0" / "result.json"
    before = kept.read_text()
    assert set(said().splitlines()) <= set(shown.splitlines())
    assert kept.read_text() == before, "a finished run is not repeated"
    assert "the frozen policy, of 1 demonstration(s), succeeds in" in shown
    assert shown.count("of unseen episodes succeed when it is steered") == 2
    folder = tmp_path / "smoke" / "libero_90-28-frozen-0"
    with np.load(next((folder / "demonstrations").glob("*.npz"))) as recorded:
        assert recorded["success"]
        assert recorded["actions"].shape == (len(recorded["states"]), 7)
    result = json.loads(before)
    assert result["finished"]
    assert len(result["success"]) == 2
