from dataclasses import replace

import numpy as np
import pytest
import torch

from robometer_rl.data.augment import augment_frames
from robometer_rl.training.collate import Collator, PixelSource
from robometer_rl.training.episodes import make_episodes
from robometer_rl.training.features import FeatureCache
from robometer_rl.training.samples import ClipSample
from robometer_rl.training.sampling import Sampler, SamplingConfig
from tests.data.episodes import make_episodes_of_two_tasks
from tests.training.tiny import make_tiny


@pytest.fixture(scope="module")
def trajectories():
    return make_episodes_of_two_tasks(2)


@pytest.fixture(scope="module")
def checkpoint():
    checkpoint = make_tiny()
    checkpoint.network.eval()
    return checkpoint


def _samples(trajectories):
    sampler = Sampler(make_episodes(trajectories), SamplingConfig(max_frames=4, pair_fraction=0.4))
    return [sampler.sample(0, index) for index in range(8)]


def test_cached_features_give_the_outputs_of_the_pixels(trajectories, checkpoint, tmp_path):
    cache = FeatureCache.compute(
        checkpoint.network, checkpoint.processor, trajectories, tmp_path / "features.npy", views=1
    )
    samples = _samples(trajectories)
    cached = Collator(checkpoint.processor, cache)(samples)["batch"]
    pixels = Collator(checkpoint.processor, PixelSource(trajectories, augment=False, seed=0))(samples)["batch"]
    assert cached.clips.frames is None
    for a, b in ((cached.clips, pixels.clips), (cached.pairs, pixels.pairs)):
        with torch.inference_mode():
            first, second = checkpoint.network(a), checkpoint.network(b)
        torch.testing.assert_close(first.progress, second.progress, atol=2e-3, rtol=0)
        torch.testing.assert_close(first.success, second.success, atol=2e-3, rtol=0)


def test_later_views_are_of_changed_pictures(trajectories, checkpoint, tmp_path):
    cache = FeatureCache.compute(
        checkpoint.network, checkpoint.processor, trajectories, tmp_path / "features.npy", views=2, seed=3
    )
    sample = next(sample for sample in _samples(trajectories) if isinstance(sample, ClipSample))
    frames = augment_frames(trajectories[sample.episode].frames, (3, 1, sample.episode))[sample.indices]
    with torch.inference_mode():
        expected = checkpoint.network.encode([checkpoint.processor.patcher(frames)])
    changed = replace(sample, view=1)
    for feature, other in zip(cache.frames(changed).features, expected, strict=True):
        torch.testing.assert_close(feature, other, atol=2e-3, rtol=1e-3)


def test_a_finished_file_is_used_and_a_wrong_one_is_named(trajectories, checkpoint, tmp_path):
    path = tmp_path / "features.npy"
    arguments = (checkpoint.network, checkpoint.processor, trajectories, path)
    FeatureCache.compute(*arguments, views=1)
    before = path.stat().st_mtime_ns
    FeatureCache.compute(*arguments, views=1)
    assert path.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"features\.npy holds features of shape"):
        FeatureCache.compute(*arguments, views=2)


def test_frames_may_differ_in_size_from_recording_to_recording(trajectories, checkpoint, tmp_path):
    """As in a folder of videos of several cameras: batches of them have the outputs of their pixels."""
    rng = np.random.default_rng(0)
    mixed = [
        replace(each, frames=rng.integers(0, 256, (len(each), 64, 128, 3), np.uint8)) if number % 2 else each
        for number, each in enumerate(trajectories)
    ]
    cache = FeatureCache.compute(checkpoint.network, checkpoint.processor, mixed, tmp_path / "features.npy", views=1)
    samples = _samples(mixed)
    cached = Collator(checkpoint.processor, cache)(samples)["batch"]
    pixels = Collator(checkpoint.processor, PixelSource(mixed, augment=False, seed=0))(samples)["batch"]
    assert len({tuple(feature.shape) for feature in cached.pairs.features or []}) > 1
    for a, b in ((cached.clips, pixels.clips), (cached.pairs, pixels.pairs)):
        with torch.inference_mode():
            first, second = checkpoint.network(a), checkpoint.network(b)
        torch.testing.assert_close(first.progress, second.progress, atol=2e-3, rtol=0)
