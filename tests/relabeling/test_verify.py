from __future__ import annotations

from dataclasses import replace

import pytest

from robometer_rl.formats.dataset import Labels
from robometer_rl.relabeling.engine import Labeller, label_dataset
from robometer_rl.relabeling.verify import VerificationError, verify_labels
from tests.fixed_models import PixelModel
from tests.relabeling.episodes import MemoryDataset, record

EPISODES = {str(number): record(4, number) for number in range(10)}
DATA, LABELLER = MemoryDataset(EPISODES), Labeller(PixelModel())


def with_wrong_progress(labels: Labels, by: float) -> Labels:
    episodes = {key: replace(episode, progress=episode.progress + by) for key, episode in labels.episodes.items()}
    return replace(labels, episodes=episodes)


def test_a_sample_is_scored_again():
    labels = label_dataset(DATA, LABELLER)
    found = verify_labels(DATA, LABELLER, labels, sample=4, seed=1)
    assert len(set(found.episodes)) == 4
    assert found.difference == 0.0
    assert len(verify_labels(DATA, LABELLER, labels).episodes) == 10
    assert verify_labels(DATA, LABELLER, labels, sample=4, seed=2).episodes != found.episodes


def test_other_labels_are_an_error_that_names_the_episode():
    labels = label_dataset(DATA, LABELLER)
    assert verify_labels(DATA, LABELLER, with_wrong_progress(labels, 5e-5)).difference == pytest.approx(5e-5, rel=0.1)
    with pytest.raises(VerificationError, match=r"episode \d has other labels .* 0.0003"):
        verify_labels(DATA, LABELLER, with_wrong_progress(labels, 3e-4))


def test_an_episode_that_vanished_is_an_error():
    labels = label_dataset(DATA, LABELLER)
    with pytest.raises(VerificationError, match="a hole in the file"):
        verify_labels(MemoryDataset(EPISODES, broken=frozenset(EPISODES)), LABELLER, labels)
