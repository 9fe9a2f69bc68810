import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robometer_rl.data.labels import FrameLabels
from robometer_rl.data.targets import TargetConfig
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.training.clip_targets import ClipTargets
from robometer_rl.training.episodes import make_episodes
from robometer_rl.training.samples import PairSample
from robometer_rl.training.sampling import ClipStrategies, Sampler, SamplingConfig
from tests.data.episodes import make_episode, make_episodes_of_two_tasks

CASES = json.loads((Path(__file__).parents[1] / "fixtures" / "robometer_tiny" / "progress_targets.json").read_text())
FIRST_FRAME = TargetConfig(rule="absolute_first_frame")


def _video(length: int = 12, **fields: object) -> Trajectory:
    """A recording of which nothing but time and outcome is known."""
    episode = replace(make_episode("push", "expert", 0, length), success=None, state=None, skill=None)
    return replace(episode, **fields)


def _targets(
    trajectory: Trajectory, indices: list[int], config: TargetConfig, strategy: str = "success"
) -> FrameLabels:
    targets = ClipTargets.of(trajectory, config, config.table())
    assert targets is not None
    return targets(np.array(indices), strategy)


@pytest.mark.parametrize("rule", ["absolute_first_frame", "absolute_wrt_total_frames"])
def test_legacy_targets_equal_the_reference(rule: str) -> None:
    cases = [case for case in CASES if case["mode"] == rule and case["success_cutoff"]]
    assert len(cases) > 50
    for case in cases:
        targets = ClipTargets(
            num_frames=case["num_frames_total"],
            quality_label="successful",
            data_source="somewhere",
            partial_success=case["partial_success"],
            mode=case["mode"],
            cutoff=case["success_cutoff"],
            preference_only=frozenset(),
            legacy=True,
        )
        labels = targets(np.array(case["frame_indices"], dtype=np.int64), "success")
        np.testing.assert_allclose(labels.progress, case["progress"], atol=1e-6, err_msg=str(case))
        assert labels.progress_known.all(), "the reference counts every frame of a success"


def test_progress_is_counted_from_the_first_frame_of_the_clip_or_of_the_recording() -> None:
    video = _video(11)
    assert _targets(video, [5, 10], FIRST_FRAME).progress.tolist() == [0.0, 1.0]
    whole = TargetConfig(rule="absolute_wrt_total_frames")
    np.testing.assert_allclose(_targets(video, [4, 10], whole).progress, [5 / 11, 1.0], atol=1e-6)


def test_what_was_judged_frame_by_frame_is_not_looked_at() -> None:
    judged, video = make_episode("push", "expert", 0), _video()
    for name in ("progress", "progress_known", "success", "success_known"):
        first, second = (getattr(_targets(each, [0, 4, 9, 11], FIRST_FRAME), name) for each in (judged, video))
        np.testing.assert_array_equal(first, second, err_msg=name)


def test_success_is_where_the_cutoff_says_and_undecided_before_it() -> None:
    droid = _video(20, data_source="oxe_droid")
    labels = _targets(droid, [0, 8, 12, 18, 19], FIRST_FRAME)
    assert labels.success.tolist() == [0, 0, 0, 1, 1]
    assert labels.success_known.tolist() == [True, True, False, True, True]
    assert labels.progress[-2:].tolist() == [1.0, 1.0], "done after 95 %"


@pytest.mark.parametrize(("legacy", "known"), [(False, [False, True]), (True, [True, True])])
def test_a_grade_is_about_the_last_frame(legacy: bool, known: list[bool]) -> None:
    video = _video(quality_label="failure", data_source="roboreward_bridge", partial_success=0.75)
    labels = _targets(video, [3, 11], replace(FIRST_FRAME, legacy=legacy))
    assert labels.progress.tolist() == [0.0, 0.75]
    assert labels.progress_known.tolist() == known
    assert labels.success_known.all()
    assert not labels.success.any()


def test_sources_of_which_only_the_order_is_learned_have_no_progress() -> None:
    config = replace(FIRST_FRAME, preference_only=("made-up",))
    assert not _targets(_video(), [0, 11], config).progress_known.any()
    assert _targets(_video(), [0, 11], FIRST_FRAME).progress_known.all()
    recorded = make_episodes(make_episodes_of_two_tasks(1), TargetConfig(preference_only=("made-up",)))
    assert not any(episode.labels.progress_known.any() for episode in recorded)
    assert all(episode.labels.success_known.all() for episode in recorded)


def test_samples_follow_the_rule() -> None:
    videos = [replace(each, success=None, state=None, skill=None) for each in make_episodes_of_two_tasks()]
    episodes = make_episodes(videos, FIRST_FRAME)
    config = SamplingConfig(pair_fraction=0.3, clips=ClipStrategies(failure=0.0), from_start_fraction=0.2)
    sampler = Sampler(episodes, config)
    late = 0
    for sample in (sampler.sample(0, index) for index in range(200)):
        for clip in (sample.first, sample.second) if isinstance(sample, PairSample) else (sample,):
            if clip.strategy == "success":
                expected = _targets(videos[clip.episode], clip.indices.tolist(), FIRST_FRAME)
                np.testing.assert_array_equal(clip.progress, expected.progress)
                np.testing.assert_array_equal(clip.success_known, expected.success_known)
                late += int(clip.indices[0]) > 0 and clip.progress[0] == 0
            elif clip.strategy == "other_task":
                assert not clip.progress.any()
    assert late > 10, "clips that begin within an episode begin at 0"


def test_what_was_recorded_has_no_defects_of_the_reference() -> None:
    with pytest.raises(ValueError, match="set the rule"):
        TargetConfig(legacy=True)
    assert ClipTargets.of(_video(), TargetConfig(), {}) is None
