import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robometer_rl.frames import UniformFrames
from robometer_rl.training.episodes import make_episodes
from robometer_rl.training.samples import ClipSample, PairSample
from robometer_rl.training.sampling import (
    ClipStrategies,
    PairStrategies,
    Sampler,
    SamplingConfig,
    SamplingError,
    clip_path,
)
from tests.data.episodes import TASKS, make_episodes_of_two_tasks

HELPERS = Path(__file__).parents[1] / "fixtures" / "robometer_tiny" / "data_helpers.json"
NO_CLIPS = ClipStrategies(0, 0, 0, 0, 0)
NO_PAIRS = PairStrategies(0, 0, 0, 0, 0)


@pytest.fixture(scope="module")
def trajectories():
    return make_episodes_of_two_tasks()


@pytest.fixture(scope="module")
def episodes(trajectories):
    return make_episodes(trajectories)


def _only(kind, **changes):
    return SamplingConfig(pair_fraction=0.0, clips=replace(NO_CLIPS, **{kind: 1.0}), **changes)


def _only_pairs(kind):
    return SamplingConfig(pair_fraction=1.0, pairs=replace(NO_PAIRS, **{kind: 1.0}))


def _draw(episodes, config, count=200):
    sampler = Sampler(episodes, config, seed=3)
    return [sampler.sample(0, index) for index in range(count)]


def _key(sample):
    if isinstance(sample, PairSample):
        return (_key(sample.first), _key(sample.second), sample.first_is_better, sample.strategy)
    return (sample.episode, sample.indices.tolist(), sample.task, sample.progress.tolist(), sample.view)


def test_paths_equal_the_reference():
    for case in json.loads(HELPERS.read_text())["segment_indices"]:
        assert clip_path(case["n"], case["start"], case["end"], case["middle"]).tolist() == case["out"], case


def test_uniform_layouts_equal_the_reference():
    for case in json.loads(HELPERS.read_text())["raw_dict_to_sample"]:
        slots = UniformFrames(case["max_frames"]).slots(case["input_shape"][0] - 1)
        assert slots.tolist() == case["frame_ids"], case


def test_a_sample_depends_on_seed_epoch_and_index_only(episodes):
    config = SamplingConfig()
    first = Sampler(episodes, config, seed=1)
    backwards = [_key(Sampler(episodes, config, seed=1).sample(2, index)) for index in reversed(range(50))]
    assert [_key(first.sample(2, index)) for index in range(50)] == backwards[::-1]
    assert _key(first.sample(2, 0)) != _key(first.sample(3, 0))
    assert [_key(first.sample(2, i)) for i in range(5)] != [
        _key(Sampler(episodes, config, 2).sample(2, i)) for i in range(5)
    ]


def test_targets_are_those_of_the_frames_shown(episodes):
    for sample in _draw(episodes, SamplingConfig(pair_fraction=0.5)):
        for clip in (sample,) if isinstance(sample, ClipSample) else (sample.first, sample.second):
            assert 1 <= len(clip) <= 8
            labels = episodes[clip.episode].labels
            expected = np.zeros(len(clip)) if clip.strategy == "other_task" else labels.progress[clip.indices]
            np.testing.assert_array_equal(clip.progress, expected)
            assert clip.progress_known.all()
            assert clip.success_known.all()


def test_histories_have_the_layouts_of_both_protocols(episodes):
    samples = _draw(episodes, _only("success", from_start_fraction=1.0, intervals=(1,), nested_fraction=0.5), 400)
    layouts = {tuple(sample.indices.tolist()) for sample in samples}
    assert (0, 1, 1, 1, 1, 1, 1, 1) in layouts, "uniform, padded on the right"
    assert (0, 1) in layouts, "nested, not padded"
    assert (0, 2, 4, 6, 8, 9) in layouts, "nested, with an irregular last gap"
    assert {len(layout) for layout in layouts} == set(range(1, 9))


def test_histories_may_start_within_an_episode_and_skip_frames(episodes):
    samples = _draw(episodes, _only("success", from_start_fraction=0.5))
    assert any(sample.indices[0] > 0 for sample in samples)
    assert any(len(sample.indices) > 2 and np.diff(sample.indices)[0] == 5 for sample in samples)


def test_rewound_and_reversed_clips_lose_progress(episodes):
    for sample in _draw(episodes, _only("rewind")):
        assert sample.progress[-1] < sample.progress.max()
    for sample in _draw(episodes, _only("reverse")):
        assert (np.diff(sample.progress) <= 0).all()
        assert sample.success[-1] == 0


def test_another_task_is_worth_nothing_and_keeps_the_frames(episodes, trajectories):
    for sample in _draw(episodes, _only("other_task")):
        own = trajectories[sample.episode]
        assert sample.task not in (own.task, *own.instructions)
        assert not sample.progress.any()
        assert not sample.success.any()


def test_failures_and_successes_come_from_their_own_episodes(episodes, trajectories):
    assert {trajectories[s.episode].skill for s in _draw(episodes, _only("failure"))} == {"stop_halfway"}
    assert {trajectories[s.episode].skill for s in _draw(episodes, _only("success"))} == {"expert"}


@pytest.fixture(scope="module")
def namesakes(trajectories):
    """Of three tasks, two are said in the same words in different scenes."""
    again = [
        replace(each, id=f"{each.id}-2", task="shove the block", instructions=(), metadata={"environment": "push-2"})
        for each in trajectories
        if each.metadata["environment"] == "push"
    ]
    return [*trajectories, *again]


def test_tasks_that_share_an_instruction_are_not_other_tasks_to_each_other(namesakes):
    episodes = make_episodes(namesakes)
    drawn = set()
    for sample in _draw(episodes, _only("other_task")):
        assert sample.task not in episodes[sample.episode].instructions
        drawn.add((episodes[sample.episode].task, sample.task in TASKS["pull"][0:1] + TASKS["pull"][1]))
    assert drawn == {("push", True), ("push-2", True), ("pull", False)}
    for pair in _draw(episodes, _only_pairs("other_task")):
        assert "pull" in {episodes[side.episode].task for side in (pair.first, pair.second)}


def test_namesakes_alone_have_no_other_task(namesakes):
    episodes = make_episodes([each for each in namesakes if each.metadata["environment"] != "pull"])
    with pytest.raises(SamplingError, match=r"another task's instruction.* do without: --sampling.clips.other-task 0$"):
        Sampler(episodes, _only("other_task"))
    with pytest.raises(SamplingError, match=r"successful episodes of two tasks.*: --sampling.pairs.other-task 0$"):
        Sampler(episodes, _only_pairs("other_task"))


@pytest.mark.parametrize("kind", ["rewind", "reverse", "failure", "other_task"])
def test_pairs_prefer_the_better_one_wherever_it_stands(episodes, trajectories, kind):
    pairs = _draw(episodes, _only_pairs(kind))
    assert Counter(pair.first_is_better for pair in pairs)[True] == pytest.approx(100, abs=25)
    for pair in pairs:
        better, worse = (pair.first, pair.second) if pair.first_is_better else (pair.second, pair.first)
        assert better.task == worse.task
        assert better.task in (trajectories[better.episode].task, *trajectories[better.episode].instructions)
        assert better.progress[-1] == 1.0
        assert worse.progress[-1] < 0.75
        assert (worse.episode == better.episode) == (kind in ("rewind", "reverse"))


@pytest.fixture(scope="module")
def graded(trajectories):
    """Failures of one task with grades, and one without."""
    grades = [0.0, 0.25, 0.5, 0.6, 0.8, None]
    pushes = [each for each in trajectories if each.metadata["environment"] == "push"]
    return [
        replace(each, id=f"{each.id}-{number}", quality_label="failure", partial_success=grade)
        for number, (each, grade) in enumerate(zip(pushes, grades, strict=True))
    ]


def test_graded_pairs_differ_by_the_margin(graded):
    """Whatever was a success or not: 0.6 against 0.8 counts, 0.5 against 0.6 does not."""
    drawn = Counter()
    for pair in _draw(make_episodes(graded), _only_pairs("graded"), 600):
        better, worse = (pair.first, pair.second) if pair.first_is_better else (pair.second, pair.first)
        drawn[graded[better.episode].partial_success, graded[worse.episode].partial_success] += 1
        assert (better.task, pair.strategy) == (worse.task, "graded")
        assert [int(side.indices[-1]) for side in (better, worse)] == [
            len(graded[side.episode]) - 1 for side in (better, worse)
        ]
    levels = [0.0, 0.25, 0.5, 0.6, 0.8]
    assert set(drawn) == {(a, b) for a in levels for b in levels if a - b >= 0.2 - 1e-9}
    wide = replace(_only_pairs("graded"), grade_margin=0.8)
    assert {pair.strategy for pair in _draw(make_episodes(graded), wide)} == {"graded"}


def test_grades_that_are_too_close_are_named_before_anything_is_drawn(graded, episodes):
    with pytest.raises(SamplingError, match=r"whose partial success differs by 0\.2"):
        Sampler(episodes, _only_pairs("graded"))
    with pytest.raises(SamplingError, match=r"whose partial success differs by 0\.9"):
        Sampler(make_episodes(graded), replace(_only_pairs("graded"), grade_margin=0.9))
    with pytest.raises(ValueError, match="grade_margin"):
        SamplingConfig(grade_margin=0.0)


def test_pairs_that_people_compared_are_drawn_as_they_said(trajectories, episodes):
    """Whatever the data say of these episodes: here a failure is better than a success, and than another failure."""
    pushes = [number for number, each in enumerate(trajectories) if each.metadata["environment"] == "push"]
    done, failed = ([n for n in pushes if (trajectories[n].quality_label == "successful") == kind] for kind in (1, 0))
    said = [(failed[0], done[0]), (failed[0], failed[1])]
    sampler = Sampler(episodes, _only_pairs("human"), seed=3, compared=said)
    drawn = Counter()
    for index in range(200):
        pair = sampler.sample(0, index)
        better, worse = (pair.first, pair.second) if pair.first_is_better else (pair.second, pair.first)
        drawn[better.episode, worse.episode] += 1
        assert (better.task, pair.strategy) == (worse.task, "human")
        assert all(int(side.indices[-1]) == len(trajectories[side.episode]) - 1 for side in (better, worse))
    assert set(drawn) == set(said)
    assert min(drawn.values()) > 60
    beside = Sampler(episodes, SamplingConfig(pair_fraction=1.0, pairs=PairStrategies(human=1.0)), 3, compared=said)
    counts = Counter(beside.sample(0, index).strategy for index in range(600))
    assert counts["human"] == pytest.approx(300, abs=60)
    assert len(counts) == 5
    with pytest.raises(SamplingError, match=r"two episodes that people compared.*--sampling\.pairs\.human 0"):
        Sampler(episodes, _only_pairs("human"))


def test_paraphrases_are_used(episodes):
    tasks = {sample.task for sample in _draw(episodes, _only("success"))}
    assert tasks == {text for task, others in TASKS.values() for text in (task, *others)}


def test_strategies_come_at_their_frequencies(episodes):
    samples = _draw(episodes, SamplingConfig(pair_fraction=0.25), 2000)
    assert sum(isinstance(sample, PairSample) for sample in samples) == pytest.approx(500, abs=70)
    counts = Counter(sample.strategy for sample in samples if isinstance(sample, ClipSample))
    assert counts["success"] / counts.total() == pytest.approx(0.3, abs=0.05)
    assert counts["reverse"] / counts.total() == pytest.approx(0.05, abs=0.03)


def test_strategies_without_candidates_are_named_before_anything_is_drawn(episodes):
    experts = [episode for episode in episodes if episode.successful]
    with pytest.raises(SamplingError, match="an episode that fails"):
        Sampler(experts, SamplingConfig())
    one_task = [episode for episode in episodes if episode.task == "push"]
    with pytest.raises(SamplingError, match="another task's instruction"):
        Sampler(one_task, SamplingConfig())
    with pytest.raises(SamplingError, match="a successful episode"):
        Sampler([], SamplingConfig())
    Sampler(experts, SamplingConfig(pair_fraction=0.0, clips=ClipStrategies(failure=0.0)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SamplingConfig(max_frames=1), "max_frames of SamplingConfig must be a whole number of at least 2"),
        (lambda: SamplingConfig(max_frames=10**6), "max_frames of SamplingConfig must be at most 1024"),
        (lambda: SamplingConfig(pair_fraction=1.5), r"pair_fraction of SamplingConfig must be a number in \[0, 1\]"),
        (lambda: SamplingConfig(nested_fraction=float("nan")), "nested_fraction"),
        (lambda: SamplingConfig(whole_fraction=-0.1), "whole_fraction"),
        (lambda: SamplingConfig(from_start_fraction=2.0), "from_start_fraction"),
        (lambda: SamplingConfig(intervals=()), "intervals"),
        (lambda: SamplingConfig(intervals=(1, 0)), r"intervals .* from 1 to 1000000, got \(1, 0\)"),
        (lambda: ClipStrategies(success=-1.0), "success of ClipStrategies"),
        (lambda: PairStrategies(graded=float("nan")), "graded of PairStrategies"),
        (lambda: SamplingConfig(clips=NO_CLIPS), "one of the frequencies of clips must be above 0"),
        (lambda: SamplingConfig(pairs=NO_PAIRS), "one of the frequencies of pairs must be above 0"),
    ],
)
def test_values_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_never_drawn_needs_no_frequencies():
    SamplingConfig(pair_fraction=0.0, pairs=NO_PAIRS)
    SamplingConfig(pair_fraction=1.0, clips=NO_CLIPS)


@pytest.fixture(scope="module")
def two_sources(trajectories):
    """Pushing was recorded in one place, pulling and one push more in another."""
    pushes = {each.id for each in trajectories if each.id.startswith("push") and each.id != "push-expert-0"}
    return make_episodes(trajectories, source_of={each.id: int(each.id not in pushes) for each in trajectories})


def _first(sample):
    """The clip that a sample begins with."""
    if isinstance(sample, PairSample):
        return sample.first if sample.first_is_better else sample.second
    return sample


def test_samples_begin_with_episodes_of_each_source_by_its_weight(two_sources):
    sampler = Sampler(two_sources, SamplingConfig(), seed=3, weights=(3.0, 1.0))
    sources = [two_sources[_first(sampler.sample(0, index)).episode].source for index in range(2000)]
    assert np.mean(sources) == pytest.approx(0.25, abs=0.04)
    assert len({_first(sampler.sample(0, index)).episode for index in range(2000)}) == len(two_sources)


def test_a_source_that_cannot_begin_a_sample_is_passed_over(two_sources, trajectories):
    failures = [each for each in two_sources if each.source == 0 or each.successful]
    sampler = Sampler(failures, _only("failure"), seed=3, weights=(1.0, 9.0))
    assert {failures[sampler.sample(0, index).episode].source for index in range(50) if failures} == {0}
    pairs = Sampler(failures, _only_pairs("failure"), seed=3, weights=(1.0, 9.0))
    drawn = [pairs.sample(0, index) for index in range(200)]
    better = [_first(pair).episode for pair in drawn]
    assert {trajectories[number].id for number in better} >= {"push-expert-0", "push-expert-1"}, "of both sources"


def test_without_weights_sources_make_no_difference(two_sources, episodes):
    one, other = (Sampler(each, SamplingConfig(), seed=5) for each in (episodes, two_sources))
    assert [_key(one.sample(1, index)) for index in range(60)] == [_key(other.sample(1, index)) for index in range(60)]
    alone = Sampler(episodes, SamplingConfig(), seed=5, weights=(7.0,))
    assert _key(alone.sample(1, 3)) == _key(one.sample(1, 3))
