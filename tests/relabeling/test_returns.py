from __future__ import annotations

import csv
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robometer_rl.formats.dataset import EpisodeError, EpisodeLabels, RecordedEpisode
from robometer_rl.formats.label_lines import read_label_lines
from robometer_rl.relabeling.engine import Labeller
from robometer_rl.relabeling.labels import label_episode
from robometer_rl.relabeling.returns import TO_THE_END, Horizon, discounted_sums
from robometer_rl.rewards import RewardSpec
from tests.fixed_models import PixelModel
from tests.relabeling.episodes import SPECS, TASK
from tests.relabeling.kinds import KINDS, make

REWARDS = st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=30)
DISCOUNTS = st.floats(0.01, 1.0)
PROGRESS = st.lists(st.floats(0, 1, width=32), min_size=3, max_size=20)


def direct(rewards: np.ndarray, horizon: Horizon) -> np.ndarray:
    """As the definition says."""
    steps = len(rewards)
    ends = [steps if horizon.n_step is None else min(t + horizon.n_step, steps) for t in range(steps)]
    sums = [sum(horizon.discount ** (k - t) * rewards[k] for k in range(t, end)) for t, end in enumerate(ends)]
    return np.array(sums)


@given(REWARDS, DISCOUNTS, st.none() | st.integers(1, 40))
def test_sums_are_those_of_the_definition(rewards, discount, n_step):
    given_rewards, horizon = np.array(rewards), Horizon(discount, n_step)
    np.testing.assert_allclose(discounted_sums(given_rewards, horizon), direct(given_rewards, horizon), atol=1e-9)


@given(REWARDS, DISCOUNTS)
def test_a_monte_carlo_return_is_the_reward_and_the_discounted_return_of_the_next_step(rewards, discount):
    sums = discounted_sums(np.array(rewards), Horizon(discount))
    np.testing.assert_allclose(sums[:-1], np.array(rewards)[:-1] + discount * sums[1:], atol=1e-12)
    assert sums[-1] == rewards[-1]


@given(REWARDS, DISCOUNTS, st.integers(1, 40))
def test_an_n_step_return_is_the_return_without_that_of_the_nth_step(rewards, discount, n_step):
    sums = discounted_sums(np.array(rewards), Horizon(discount))
    later = np.append(sums, np.zeros(n_step))[n_step:]
    found = discounted_sums(np.array(rewards), Horizon(discount, n_step))
    np.testing.assert_allclose(found, sums - discount**n_step * later, atol=1e-9)


def label(
    spec: RewardSpec,
    progress,
    horizon: Horizon,
    *,
    terminated: bool,
    steps: int | None = None,
    task=None,
    uncertainty=None,
) -> EpisodeLabels:
    """Labels of an episode in which a model saw ``progress``, one step shorter unless its outcome is missing."""
    count = len(progress)
    steps = count - 1 if steps is None else steps
    task = np.zeros(steps) if task is None else task
    frames = np.zeros((count, 4, 4, 3), np.uint8)
    episode = RecordedEpisode("a", (TASK,), {"front": frames}, steps, task, terminated, not terminated)
    return label_episode(episode, spec, np.array(progress), np.zeros(count), 0.5, horizon, uncertainty)


@given(PROGRESS, DISCOUNTS, st.none() | st.integers(1, 25), st.booleans(), st.sampled_from(SPECS))
def test_an_advantage_is_what_is_paid_and_the_later_value_less_the_value_before(
    progress, discount, n_step, terminated, spec
):
    spec, steps = replace(spec, every=1, success_bonus=0.0, confidence=None), len(progress) - 1
    task = np.linspace(-1, 1, steps)
    found = label(spec, progress, Horizon(discount, n_step), terminated=terminated, task=task)
    values = spec.scale * np.array(progress)
    if terminated and spec.task_weight:
        values[-1] = 0.0  # the task reward has paid for the outcome
    ends = [steps if n_step is None else min(t + n_step, steps) for t in range(steps)]
    paid = direct(spec.task_weight * task, Horizon(discount, n_step))
    expected = [paid[t] + discount ** (end - t) * values[end] - spec.scale * progress[t] for t, end in enumerate(ends)]
    np.testing.assert_allclose(found.advantages, expected, atol=1e-9)


@given(PROGRESS, st.none() | st.integers(1, 25), st.booleans())
def test_with_the_reward_delta_a_return_is_the_progress_made_and_so_is_an_advantage(progress, n_step, terminated):
    found = label(RewardSpec("delta"), progress, Horizon(n_step=n_step), terminated=terminated)
    later = [len(progress) - 1 if n_step is None else min(t + n_step, len(progress) - 1) for t in range(len(progress))]
    made = np.array(progress)[later[:-1]] - np.array(progress)[:-1]
    np.testing.assert_allclose(found.returns, made, atol=1e-9)
    np.testing.assert_allclose(found.advantages, made, atol=1e-9)


@given(PROGRESS, DISCOUNTS, st.none() | st.integers(1, 25), st.booleans())
def test_with_potential_based_shaping_an_advantage_is_a_return(progress, discount, n_step, terminated):
    for terminal in ("zero", "keep"):
        spec = RewardSpec("potential", task_weight=0.5, gamma=discount, terminal_potential=terminal)
        task = np.arange(len(progress) - 1.0)
        found = label(spec, progress, Horizon(discount, n_step), terminated=terminated, task=task)
        np.testing.assert_allclose(found.advantages, found.returns, atol=1e-12)


def test_what_follows_a_truncated_episode_is_worth_its_last_progress_and_returns_leave_it_out():
    progress, horizon = [0.2, 0.5, 0.6], Horizon(0.5)
    spec = RewardSpec("success", task_weight=1.0)
    task = np.array([0.0, 1.0])
    truncated, terminated = (label(spec, progress, horizon, terminated=ended, task=task) for ended in (False, True))
    assert truncated.returns.tolist() == terminated.returns.tolist() == [0.5, 1.0]
    assert truncated.advantages == pytest.approx([0.5 + 0.25 * 0.6 - 0.2, 1 + 0.5 * 0.6 - 0.5])
    assert terminated.advantages == pytest.approx([0.5 - 0.2, 1 - 0.5])
    alone = label(RewardSpec("success"), progress, horizon, terminated=True)
    assert alone.advantages == pytest.approx([0.25 * 0.6 - 0.2, 0.5 * 0.6 - 0.5])


def test_an_outcome_that_was_not_recorded_is_worth_what_was_seen_last():
    found = label(RewardSpec("level"), [0.2, 0.6], Horizon(0.5), terminated=False, steps=2)
    assert found.imputed.tolist() == [False, True]
    assert found.returns == pytest.approx([0.6 + 0.5 * 0.6, 0.6])
    assert found.advantages == pytest.approx([0.25 * 0.6 - 0.2, 0.5 * 0.6 - 0.6])


def test_a_value_is_the_last_progress_that_the_model_was_sure_of():
    progress, uncertainty, horizon = [0.2, 0.9, 0.6], [0.0, 0.5, 0.1], Horizon(0.5, 1)
    for mode in ("delta", "level"):
        spec = RewardSpec(mode, confidence=0.5)
        found = label(spec, progress, horizon, terminated=False, uncertainty=uncertainty)
        assert found.advantages == pytest.approx([0.5 * 0.2 - 0.2, 0.5 * 0.6 - 0.2])


def test_sums_beyond_what_learners_can_keep_are_an_error():
    with pytest.raises(EpisodeError, match=r"returns reach 6e\+38.*smaller weights"):
        label(RewardSpec("level", scale=3e38), [1.0, 1.0, 1.0], TO_THE_END, terminated=False)


@pytest.mark.parametrize("wrong", [{"discount": 0.0}, {"discount": 1.1}, {"discount": float("nan")}, {"n_step": 0}])
def test_a_horizon_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} of Horizon"):
        Horizon(**wrong)


def stored_in(path: Path, groups: str, name: str) -> np.ndarray:
    with h5py.File(path) as file:
        found: dict[str, Any] = {}
        file.visititems(lambda place, item: found.update({place: item}))
        chosen = [item for place, item in found.items() if fnmatch(place, f"{groups}/{name}".lstrip("/"))]
        return np.concatenate([item[()] for item in chosen])


def written(kind: str, path: Path) -> dict[str, np.ndarray]:
    """All returns and all advantages of a labelled dataset, (2, N), episode by episode."""
    if kind == "npz":
        files = [np.load(file) for file in sorted(path.glob("*.npz"))]
        return {name: np.concatenate([file[f"robometer/{name}s"] for file in files]) for name in COLUMNS}
    if kind.endswith("jsonl"):
        entries = read_label_lines(path).episodes.values()
        return {name: np.concatenate([getattr(entry, f"{name}s") for entry in entries]) for name in COLUMNS}
    if kind == "videos":
        with (path / "labels.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["reward"]]
        return {name: np.array([float(row[name]) for row in rows]) for name in COLUMNS}
    if kind.startswith("lerobot"):
        tables = [path / "labels.parquet"] if kind.endswith("sidecar") else sorted((path / "data").rglob("*.parquet"))
        prefix = "" if kind.endswith("sidecar") else "robometer."
        found = [pq.read_table(table) for table in tables]
        return {name: np.concatenate([table[f"{prefix}{name}"].to_numpy() for table in found]) for name in COLUMNS}
    if kind.startswith(("hdf5", "maniskill", "aloha")):
        names = {"maniskill": "traj_*", "aloha": ""}.get(kind, "data/*")
        files = sorted(path.glob("*.hdf5")) if path.is_dir() else [path]
        return {
            name: np.concatenate([stored_in(file, names, f"robometer/{name}s") for file in files]) for name in COLUMNS
        }
    if kind.startswith("minari"):
        from robometer_rl.formats.minari.reader import open_minari, stored_episode

        numbers = open_minari(path).episode_indices.tolist()
        infos = [stored_episode(path / "data", number)["infos"] for number in numbers]
        return {name: np.concatenate([each[f"robometer_{name}s"][1:] for each in infos]) for name in COLUMNS}
    from robometer_rl.formats.buffer_files import load_buffer

    buffer = load_buffer(path)
    return {name: buffer.robometer[f"{name}s"][: buffer.pos, 0] for name in COLUMNS}


COLUMNS = ("return", "advantage")


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_holds_the_returns_and_advantages_of_its_steps(tmp_path, kind):
    path = make(kind, tmp_path / "data")
    labeller = Labeller(PixelModel(), RewardSpec("level"), horizon=Horizon(0.9, 3))
    labels = KINDS[kind].run(path, labeller)
    assert labels is not None
    assert (labels.provenance.discount, labels.provenance.n_step) == (0.9, 3)
    found = written(kind, KINDS[kind].output(path))
    for name in COLUMNS:
        expected = np.concatenate([getattr(entry, f"{name}s") for entry in labels.episodes.values()])
        assert len(np.unique(expected)) > 3
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-6)
