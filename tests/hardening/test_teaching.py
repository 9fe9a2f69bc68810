"""What is added to the recordings, and how models go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from robometer_rl.data.labels import label_trajectories
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.hardening.config import HardenConfig
from robometer_rl.hardening.teaching import _fine_tuning, add_lessons, as_in_store, require_teachable
from tests.adapting.recordings import TASK, recording, store_of


def config(folder: Path, **fields: object) -> HardenConfig:
    given = {"model": "mini", "env": "a:b", "store": folder / "store", "output": folder / "hard", "task": TASK}
    return HardenConfig(**{**given, **fields})  # pyright: ignore[reportArgumentType]


def test_the_end_of_a_failure_of_which_only_the_outcome_is_known_is_worth_nothing(tmp_path: Path) -> None:
    unmeasured = recording("random", 1, distance=None)
    add_lessons(tmp_path / "store", [unmeasured, recording("half", 2), recording("expert", 3, distance=None)])
    add_lessons(tmp_path / "store", [unmeasured, recording("half", 4)])  # once each
    found = {each.id: each for each in TrajectoryStore.open(tmp_path / "store")}
    assert {name: each.partial_success for name, each in found.items()} == {
        "random-1": 0.0, "half-2": None, "expert-3": None, "half-4": None,
    }  # fmt: skip
    (labels,) = label_trajectories([found["random-1"]])
    assert (labels.progress_known[-1], labels.progress[-1]) == (True, 0.0)


def test_an_agents_episode_is_of_the_simulators_task_that_the_recordings_name() -> None:
    agent = recording("half", 1, metadata={"return": 3.0})
    known = [recording("expert", 2, metadata={"environment": "push"}), recording("expert", 3, task="sit down")]
    assert as_in_store(agent, known).metadata == {"return": 3.0, "environment": "push"}
    other = replace(known[0], metadata={"environment": "pull"})
    for unclear in ([], [recording("expert", 2)], [known[0], other]):
        assert as_in_store(agent, unclear) is agent


def test_several_tasks_are_told_apart_and_an_adapter_gets_no_other(tmp_path: Path) -> None:
    store_of(tmp_path / "store", [recording("expert", 1), recording("half", 2)])
    asked = _fine_tuning(config(tmp_path, steps=7, seed=3), "mini", tmp_path / "more", tmp_path / "out")
    assert (asked.start, asked.lora.rank, asked.frozen.steps, asked.seed) == ("mini", 8, 7, 3)
    assert asked.data == (tmp_path / "store", tmp_path / "more")
    assert asked.sampling.clips.other_task == asked.sampling.pairs.other_task == 0
    store_of(tmp_path / "store", [recording("expert", 3, task="sit down")])
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    asked = _fine_tuning(config(tmp_path), str(adapter), tmp_path / "more", tmp_path / "out")
    assert (asked.start, asked.lora.rank, asked.frozen.steps) == (str(adapter), 0, 200)
    assert (asked.sampling.clips.other_task, asked.sampling.pairs.other_task) == (0.25, 0.2)


def test_models_that_nothing_trains_are_refused() -> None:
    require_teachable("mini")
    with pytest.raises(ValueError, match="topreward:x is a model of the family 'topreward', which nothing here trains"):
        require_teachable("topreward:x")
