"""Examples in docstrings run, with a toy environment in place of a simulator."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.library import LIBRARY

# Those that say what they need instead of running: a simulator of 620 MB, recordings, a trained agent.
SKIPPED = {
    "robometer_rl.envs.libero",
    "robometer_rl.envs.robosuite",
    "robometer_rl.data.store",
    "robometer_rl.formats.label_lines",
    "robometer_rl.formats.opening",
    "robometer_rl.relabeling.buffers",
}
WITH_EXAMPLES = sorted(name for name, path in LIBRARY.items() if ">>> " in path.read_text(encoding="utf-8"))


class Toy(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Noise, in episodes of five steps."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (4,), np.float32)
    render_mode = "rgb_array"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(3, np.float32), {}

    def step(self, action: NDArray[np.float32]) -> Any:
        self.steps += 1
        return np.zeros(3, np.float32), 0.0, False, self.steps == 5, {"is_success": False}

    def render(self) -> Any:
        return self.np_random.integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", sorted(set(WITH_EXAMPLES) - SKIPPED))
def test_examples_say_what_happens(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for needs in ("metaworld", "stable_baselines3", "ray", "torchrl"):
        if needs in LIBRARY[name].read_text(encoding="utf-8"):
            pytest.importorskip(needs)
    module = importlib.import_module(name)
    monkeypatch.chdir(tmp_path)  # some write
    namespace = {"make_env": Toy} if name.startswith("robometer_rl.wrappers.") else None
    found = doctest.testmod(module, extraglobs=namespace)
    assert found.attempted > 0
    assert found.failed == 0


def test_only_what_needs_more_is_skipped() -> None:
    skipping = {name for name in WITH_EXAMPLES if "+SKIP" in LIBRARY[name].read_text(encoding="utf-8")}
    assert skipping == SKIPPED


def test_examples_stand_under_the_heading_that_the_documentation_shows_as_code() -> None:
    wrong = [name for name, path in LIBRARY.items() if "\n    Example:\n" in path.read_text(encoding="utf-8")]
    assert not wrong, "call the section Examples: under another heading the site makes quotations of >>>"
