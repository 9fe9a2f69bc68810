"""Lets lerobot itself read what relabelling made of a LeRobot dataset, and prints what it found.

lerobot cannot live in this project's environment (it pins older releases of torch, av and the Hub client), so the two
halves run in different ones. From the root of the repository::

    robometer-rl relabel tests/fixtures/lerobot_v30 --cameras observation.images.top --output /tmp/labelled

    python3.11 -m venv /tmp/lerobot && /tmp/lerobot/bin/pip install lerobot==0.4.4
    /tmp/lerobot/bin/python tools/check_lerobot_labels.py tests/fixtures/lerobot_v30 /tmp/labelled

It raises if lerobot reads anything but what is promised in docs/relabeling.md.
"""

from __future__ import annotations

import importlib.metadata
import logging
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from lerobot.datasets.compute_stats import aggregate_stats, get_feature_stats
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.utils.rabc import RABCWeights

logger = logging.getLogger(__name__)

NEW = ("next.reward", "next.success", "robometer.progress", "robometer.success", "robometer.imputed")


def column(dataset: LeRobotDataset, name: str) -> np.ndarray:
    """(N,) of all frames."""
    return np.asarray(dataset.hf_dataset.with_format("numpy")[name])


def check_unchanged(original: LeRobotDataset, labelled: LeRobotDataset) -> None:
    """Every other feature of every frame is equal, pictures to the last bit."""
    assert len(labelled) == len(original)
    for number in range(len(original)):
        before, after = original[number], labelled[number]
        for name, value in before.items():
            if name in ("next.reward", "next.success"):
                continue
            same = torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name]
            assert same, (number, name)
    shared = sorted(set(original.meta.features) - {"next.reward", "next.success"})
    logger.info(
        "%d frames; %d features as they were, among them %s", len(labelled), len(shared), original.meta.camera_keys
    )


def check_originals(original: LeRobotDataset, labelled: LeRobotDataset) -> None:
    """Original rewards are kept."""
    for name, kept in (("next.reward", "robometer.original_reward"), ("next.success", "robometer.original_success")):
        if name in original.meta.features:
            np.testing.assert_array_equal(column(original, name), column(labelled, kept))
            logger.info("%s: the original is in %s", name, kept)


def check_statistics(labelled: LeRobotDataset) -> None:
    """Those of the dataset are those that lerobot computes of its columns."""
    episodes = column(labelled, "episode_index")
    for name in NEW:
        values = column(labelled, name)
        found = labelled.meta.stats[name]
        pieces = [get_feature_stats(values[episodes == index], 0, True) for index in np.unique(episodes)]
        expected = aggregate_stats([{name: piece} for piece in pieces])[name]
        for statistic in ("min", "max", "mean", "std", "count"):
            np.testing.assert_allclose(found[statistic].astype(float), expected[statistic].astype(float), atol=1e-6)
        low, high = found["min"][0], found["max"][0]
        logger.info("%s: %s, from %.4g to %.4g, mean %.4g", name, values.dtype, low, high, found["mean"][0])


def check_delta(labelled: LeRobotDataset) -> None:
    """With the reward ``delta``, a step pays the progress between its frame and the next, and the last one nothing."""
    for index in np.unique(column(labelled, "episode_index")):
        rows = column(labelled, "episode_index") == index
        progress = column(labelled, "robometer.progress")[rows]
        np.testing.assert_allclose(column(labelled, "next.reward")[rows], np.append(np.diff(progress), 0), atol=1e-6)
        assert column(labelled, "robometer.imputed")[rows].tolist() == [False] * (len(progress) - 1) + [True]
    logger.info("rewards are differences of progress; the last of every episode is 0 and imputed")


def check_weights(labelled: LeRobotDataset, path: Path) -> None:
    """RA-BC finds the progress of every frame, and weights a batch with it."""
    weights = RABCWeights(path, chunk_size=5, device=torch.device("cpu"))
    progress = column(labelled, "robometer.progress")
    assert [weights.progress_lookup[index] for index in range(len(labelled))] == progress.tolist()
    batch, _ = weights.compute_batch_weights({"index": torch.arange(len(labelled))})
    names = pq.read_schema(path).names
    logger.info("%s %s: RA-BC weights from %.3g to %.3g", path.name, names, float(batch.min()), float(batch.max()))


def check_loader(labelled: LeRobotDataset) -> None:
    """A training loop's batches hold the new columns."""
    batch = next(iter(torch.utils.data.DataLoader(labelled, batch_size=8, shuffle=False)))
    logger.info("a batch of 8: %s", {name: (tuple(batch[name].shape), str(batch[name].dtype)) for name in NEW})


def main(before: str, after: str) -> None:
    """Checks the dataset in the directory ``after``, which was made of that in ``before``."""
    logger.info("lerobot %s, datasets %s", *(importlib.metadata.version(name) for name in ("lerobot", "datasets")))
    original = LeRobotDataset("tests/original", root=before)
    labelled = LeRobotDataset("tests/labelled", root=after)
    check_unchanged(original, labelled)
    check_originals(original, labelled)
    check_statistics(labelled)
    check_delta(labelled)
    check_weights(labelled, Path(after) / "robometer_progress.parquet")
    check_loader(labelled)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    main(*sys.argv[1:])
