from dataclasses import replace

import numpy as np
import pytest
import torch

from robometer_rl.data.augment import augment_frames
from robometer_rl.training.collate import Collator, PixelSource
from robometer_rl.training.episodes import make_episodes
from robometer_rl.training.samples import ClipSample, PairSample
from robometer_rl.training.sampling import Sampler, SamplingConfig
from tests.data.episodes import make_episodes_of_two_tasks
from tests.training.tiny import make_tiny


@pytest.fixture(scope="module")
def trajectories():
    return make_episodes_of_two_tasks()


@pytest.fixture(scope="module")
def samples(trajectories):
    sampler = Sampler(make_episodes(trajectories), SamplingConfig(max_frames=4, pair_fraction=0.5))
    return [sampler.sample(0, index) for index in range(12)]


@pytest.fixture(scope="module")
def processor():
    return make_tiny().processor


def test_targets_follow_the_order_of_the_network_s_outputs(trajectories, samples, processor):
    batch = Collator(processor, PixelSource(trajectories, augment=False, seed=0))(samples)["batch"]
    clips = [sample for sample in samples if isinstance(sample, ClipSample)]
    pairs = [sample for sample in samples if isinstance(sample, PairSample)]
    shown = clips + [side for pair in pairs for side in (pair.first, pair.second)]
    assert batch.clips.sides == [(len(clip),) for clip in clips]
    assert batch.pairs.sides == [(len(pair.first), len(pair.second)) for pair in pairs]
    expected = np.concatenate([sample.progress for sample in shown])
    np.testing.assert_allclose(batch.progress.numpy() @ np.linspace(0, 1, 10), expected, atol=1e-6)
    assert batch.success.tolist() == np.concatenate([sample.success for sample in shown]).tolist()
    assert batch.progress_mask.tolist() == [1.0] * len(expected)
    assert batch.preference.tolist() == [float(pair.first_is_better) for pair in pairs]


def test_the_prompts_have_the_tasks_and_frames_of_the_samples(trajectories, samples, processor):
    clip = next(sample for sample in samples if isinstance(sample, ClipSample))
    inputs = Collator(processor, PixelSource(trajectories, augment=False, seed=0))([clip])["batch"].clips
    assert f"'{clip.task}'" in processor.tokenizer.decode(inputs.input_ids[0])
    frames = trajectories[clip.episode].frames[clip.indices]
    assert torch.equal(inputs.frames[0].pixels, processor.patcher(frames).pixels)


def test_equal_views_give_equal_pictures(trajectories, samples):
    clip = next(sample for sample in samples if isinstance(sample, ClipSample))
    source = PixelSource(trajectories, augment=True, seed=5)
    frames = trajectories[clip.episode].frames[clip.indices]
    np.testing.assert_array_equal(source.frames(clip), augment_frames(frames, (5, clip.view)))
    assert (source.frames(replace(clip, view=clip.view + 1)) != source.frames(clip)).any()


def test_a_batch_of_one_kind_only(trajectories, samples, processor):
    collate = Collator(processor, PixelSource(trajectories, augment=False, seed=0))
    pairs = [sample for sample in samples if isinstance(sample, PairSample)]
    batch = collate(pairs)["batch"]
    assert batch.clips is None
    assert len(batch.to("cpu").preference) == len(pairs)
