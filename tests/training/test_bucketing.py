import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robometer_rl.training.bucketing import Buckets, TokenCounts, bucketed_order
from robometer_rl.training.collate import Collator, PixelSource
from robometer_rl.training.episodes import make_episodes
from robometer_rl.training.samples import PairSample
from robometer_rl.training.sampling import Sampler, SamplingConfig
from robometer_rl.training.trainer import SampleDataset
from tests.data.episodes import make_episodes_of_two_tasks
from tests.training.tiny import make_tiny

BATCH, BATCHES, TOTAL = 4, 5, 52  # the last window has three batches


@pytest.fixture(scope="module")
def trajectories():
    return make_episodes_of_two_tasks(2)


@pytest.fixture(scope="module")
def sampler(trajectories):
    return Sampler(make_episodes(trajectories), SamplingConfig(max_frames=8, pair_fraction=0.3))


@pytest.fixture(scope="module")
def processor():
    return make_tiny(max_frames=8).processor


@pytest.fixture(scope="module")
def tokens(processor, trajectories):
    return TokenCounts(processor, trajectories)


def _dataset(sampler, tokens, seed=0, stage=0):
    buckets = Buckets(lambda place: sampler.sample(stage, place), tokens, TOTAL, BATCH, BATCHES, (seed, stage))
    return SampleDataset(sampler, TOTAL, stage, buckets)


def _places(sampler, tokens, **changes):
    buckets = _dataset(sampler, tokens, **changes)._order
    assert buckets is not None
    return [buckets(place) for place in range(TOTAL)]


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 1)), min_size=12, max_size=12), st.integers(0, 5))
@settings(max_examples=50)
def test_an_order_keeps_the_samples_and_the_kinds_of_every_batch(samples, seed):
    lengths, kinds = (np.array(column) for column in zip(*samples, strict=True))
    order = bucketed_order(lengths, kinds, 3, np.random.default_rng(seed))
    assert sorted(order) == list(range(12))
    before = sorted(kinds.reshape(-1, 3).tolist())
    assert sorted(kinds[order].reshape(-1, 3).tolist()) == before
    spread = [np.ptp(lengths[batch]) for batch in order.reshape(-1, 3) if not kinds[batch].any()]
    if not kinds.any():
        assert sum(spread) <= sum(np.ptp(lengths[start : start + 3]) for start in range(0, 12, 3))


def test_a_stage_has_the_same_samples_in_every_window(sampler, tokens):
    places = _places(sampler, tokens)
    for start in range(0, TOTAL, BATCH * BATCHES):
        window = range(start, min(start + BATCH * BATCHES, TOTAL))
        assert sorted(places[start : window.stop]) == list(window)
    assert places != list(range(TOTAL))


def test_the_order_is_decided_by_the_seed_and_the_place_alone(sampler, tokens):
    places = _places(sampler, tokens)
    assert _places(sampler, tokens) == places
    assert _places(sampler, tokens, seed=1) != places
    buckets = _dataset(sampler, tokens)._order
    assert buckets is not None
    assert [buckets(place) for place in (37, 3, 51)] == [places[place] for place in (37, 3, 51)]


def test_batches_keep_their_pairs_and_lose_padding(sampler, tokens, processor, trajectories):
    collate = Collator(processor, PixelSource(trajectories, augment=False, seed=0))
    drawn, dealt = SampleDataset(sampler, TOTAL, 0), _dataset(sampler, tokens)

    def batches(dataset):
        return [[dataset[place] for place in range(start, start + BATCH)] for start in range(0, 20, BATCH)]

    def pairs(batch):
        return sum(isinstance(sample, PairSample) for sample in batch)

    def padding(dataset):
        inputs = [collate(batch)["batch"] for batch in batches(dataset)]
        masks = [part.attention_mask for batch in inputs for part in (batch.clips, batch.pairs) if part is not None]
        return sum(int((~mask).sum()) for mask in masks)

    assert sorted(map(pairs, batches(dealt))) == sorted(map(pairs, batches(drawn)))
    assert padding(dealt) < 0.6 * padding(drawn)


def test_counts_order_prompts_as_the_processor_does(sampler, tokens, processor, trajectories):
    collate = Collator(processor, PixelSource(trajectories, augment=False, seed=0))
    clips = [sample for place in range(30) if not isinstance(sample := sampler.sample(0, place), PairSample)]
    real = [int(collate([clip])["batch"].clips.attention_mask.sum()) for clip in clips]
    counted = [tokens(clip) for clip in clips]
    longest = [real[place] for place in np.argsort(counted, kind="stable")]
    assert np.corrcoef(real, counted)[0, 1] > 0.99
    assert longest[-1] == max(real)
