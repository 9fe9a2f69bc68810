"""What relabelling makes of a LeRobot dataset, read by LeRobot itself."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

pytest.importorskip("lerobot.datasets.lerobot_dataset", reason="run by `make test-lerobot`")

from lerobot.datasets.compute_stats import aggregate_stats, get_feature_stats  # pyright: ignore[reportMissingImports]
from lerobot.datasets.lerobot_dataset import LeRobotDataset  # pyright: ignore[reportMissingImports]
from lerobot.rewards.sarm.rabc import RABCWeights  # pyright: ignore[reportMissingImports]
from lerobot.utils.sample_weighting import (  # pyright: ignore[reportMissingImports]
    SampleWeightingConfig,
    make_sample_weighter,
)

from robometer_rl.formats.dataset import DatasetOptions
from robometer_rl.formats.table import open_dataset
from robometer_rl.relabeling.engine import Labeller, label_dataset
from robometer_rl.relabeling.returns import Horizon
from robometer_rl.rewards import RewardSpec
from tests.fixed_models import PixelModel
from tests.library import ROOT

FIXTURES = ROOT / "tests" / "fixtures"
LABELS = ("progress", "success", "return", "advantage", "imputed")
NEW = ("next.reward", "next.success", *(f"robometer.{name}" for name in LABELS))
REPLACED = {"next.reward": "robometer.original_reward", "next.success": "robometer.original_success"}


class Labelled(NamedTuple):
    original: Any
    copy: Any
    path: Path
    sidecar: Path


@pytest.fixture(scope="module", params=["lerobot_v30", "lerobot_v30_images"])
def labelled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    """A dataset with videos or with images, and a copy with the reward \"delta\"."""
    source, folder = FIXTURES / request.param, tmp_path_factory.mktemp("labelled")
    path, sidecar = folder / "copy", folder / "sidecar"
    cameras = LeRobotDataset("tests/original", root=source).meta.camera_keys
    _, dataset = open_dataset(DatasetOptions(source, cameras=tuple(cameras), tasks=("open the drawer",)))
    labels = label_dataset(dataset, Labeller(PixelModel(), RewardSpec(), horizon=Horizon(0.9, 3)))
    dataset.writer("copy", path).write(labels)
    dataset.writer("sidecar", sidecar).write(labels)
    copy = LeRobotDataset("tests/labelled", root=path)
    return Labelled(LeRobotDataset("tests/original", root=source), copy, path, sidecar)


def column(dataset: Any, name: str) -> np.ndarray:
    """(N,) of all frames."""
    return np.asarray(dataset.hf_dataset.with_format("numpy")[name])


def test_every_other_feature_is_as_it_was_pictures_to_the_last_bit(labelled: Labelled) -> None:
    assert len(labelled.copy) == len(labelled.original) > 0
    for before, after in zip(labelled.original, labelled.copy, strict=True):
        for name, value in before.items():
            if name not in REPLACED:
                same = torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name]
                assert same, name


def test_original_rewards_are_kept(labelled: Labelled) -> None:
    for name in set(REPLACED) & set(labelled.original.meta.features):
        np.testing.assert_array_equal(column(labelled.original, name), column(labelled.copy, REPLACED[name]))


def test_statistics_are_those_that_lerobot_computes(labelled: Labelled) -> None:
    episodes = column(labelled.copy, "episode_index")
    for name in NEW:
        values = column(labelled.copy, name)
        pieces = [get_feature_stats(values[episodes == index], 0, True) for index in np.unique(episodes)]
        expected = aggregate_stats([{name: piece} for piece in pieces])[name]
        for statistic in ("min", "max", "mean", "std", "count"):
            found = labelled.copy.meta.stats[name][statistic]
            np.testing.assert_allclose(found.astype(float), expected[statistic].astype(float), rtol=0, atol=1e-6)


def test_a_step_pays_the_progress_to_the_next_frame(labelled: Labelled) -> None:
    episodes = column(labelled.copy, "episode_index")
    for index in np.unique(episodes):
        rows = episodes == index
        progress = column(labelled.copy, "robometer.progress")[rows]
        rewards = column(labelled.copy, "next.reward")[rows]
        np.testing.assert_allclose(rewards, np.append(np.diff(progress), 0), rtol=0, atol=1e-6)
        imputed = column(labelled.copy, "robometer.imputed")[rows]
        assert imputed.tolist() == [False] * (len(progress) - 1) + [True]


@pytest.mark.parametrize("place", ["path", "sidecar"])
def test_ra_bc_weights_batches_by_the_progress_that_was_written(labelled: Labelled, place: str) -> None:
    """As `lerobot-train --sample_weighting.progress_path=FILE` does, whose policy looks a chunk of actions ahead."""
    file = getattr(labelled, place) / "robometer_progress.parquet"
    policy: Any = SimpleNamespace(config=SimpleNamespace(chunk_size=5))
    config = SampleWeightingConfig(type="rabc", progress_path=str(file))
    weights = make_sample_weighter(config, policy, torch.device("cpu"))
    assert isinstance(weights, RABCWeights)
    progress = column(labelled.copy, "robometer.progress")
    assert [weights.progress_lookup[index] for index in range(len(progress))] == progress.tolist()
    batch, _ = weights.compute_batch_weights({"index": torch.arange(len(progress))})
    assert torch.isfinite(batch).all()
    assert batch.max() > batch.min() >= 0
    # Those that lose progress over the chunk weigh nothing.
    ends = [index for index, done in enumerate(np.diff(column(labelled.copy, "episode_index"), append=-1)) if done]
    ahead = [min(index + 5, next(end for end in ends if end >= index)) for index in range(len(progress))]
    lost = progress[ahead] < progress
    assert lost.any()
    assert batch.numpy()[lost].max() == 0.0


def test_the_sidecar_has_the_labels_of_the_copy(labelled: Labelled) -> None:
    table = pq.read_table(labelled.sidecar / "labels.parquet")
    for name in LABELS:
        np.testing.assert_array_equal(
            table[name].to_numpy().astype(np.float32), column(labelled.copy, f"robometer.{name}").astype(np.float32)
        )


def test_a_training_loop_sees_the_new_columns(labelled: Labelled) -> None:
    batch = next(iter(torch.utils.data.DataLoader(labelled.copy, batch_size=4)))
    assert {name: tuple(batch[name].shape) for name in NEW} == dict.fromkeys(NEW, (4,))
