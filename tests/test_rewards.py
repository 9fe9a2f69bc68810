"""What a step pays: every rule of the contract, then the step-wise form against the whole-episode form."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robometer_rl.frames import scored_steps
from robometer_rl.rewards import (
    DEFAULT_REWARD,
    DEFAULT_SUCCESS_THRESHOLD,
    EpisodeRewards,
    NonFiniteRewardError,
    RewardSpec,
    RewardState,
    episode_rewards,
    is_scored,
    next_streak,
)

PROGRESS = [0.1, 0.3, 0.2, 0.6, 0.9]
SUCCESS = [0.9, 0.7, 0.2, 0.8, 0.9]
TASK = [1.0, 0.0, 0.0, 2.0]


def pay(spec: RewardSpec, terminated: bool = True, threshold: float = 0.65) -> EpisodeRewards:
    chosen = scored_steps(5, spec.every)
    progress, success = np.array(PROGRESS)[chosen], np.array(SUCCESS)[chosen]
    return episode_rewards(spec, progress, success, TASK, terminated=terminated, threshold=threshold)


class TestModes:
    @pytest.mark.parametrize(
        ("spec", "expected"),
        [
            (RewardSpec(), [0.2, -0.1, 0.4, 0.3]),
            (RewardSpec(mode="level"), [0.3, 0.2, 0.6, 0.9]),
            (RewardSpec(mode="success"), [0, 0, 0, 1]),
            (RewardSpec(mode="success", patience=1), [1, 0, 1, 1]),
            (RewardSpec(mode="delta", scale=2, task_weight=0.5), [0.9, -0.2, 0.8, 1.6]),
            (RewardSpec(mode="potential", gamma=0.5, task_weight=1), [1.05, -0.2, 0.1, 1.4]),
            (RewardSpec(mode="potential", gamma=0.5, allow_pure_shaping=True), [0.05, -0.2, 0.1, -0.6]),
            (
                RewardSpec(mode="potential", gamma=0.5, allow_pure_shaping=True, terminal_potential="keep"),
                [0.05, -0.2, 0.1, -0.15],
            ),
            (RewardSpec(mode="delta", scale=0, success_bonus=3), [0, 0, 0, 3]),
        ],
    )
    def test_values(self, spec: RewardSpec, expected: list[float]) -> None:
        np.testing.assert_allclose(pay(spec).rewards, expected, atol=1e-12)

    def test_delta_sums_to_the_difference_of_the_ends(self) -> None:
        assert pay(RewardSpec()).rewards.sum() == pytest.approx(PROGRESS[-1] - PROGRESS[0])

    def test_a_truncated_episode_keeps_its_last_potential(self) -> None:
        spec = RewardSpec(mode="potential", gamma=0.5, allow_pure_shaping=True)
        assert pay(spec, terminated=False).rewards[-1] == pytest.approx(0.5 * 0.9 - 0.6)

    def test_discounted_shaping_telescopes(self) -> None:
        spec = RewardSpec(mode="potential", gamma=0.9, allow_pure_shaping=True)
        discounted = pay(spec, terminated=False).rewards @ 0.9 ** np.arange(4)
        assert discounted == pytest.approx(0.9**4 * PROGRESS[-1] - PROGRESS[0])

    @pytest.mark.parametrize(
        ("spec", "expected"),
        [
            (RewardSpec(every=3), [0, 0, 0.5, 0.3]),
            (RewardSpec(mode="level", every=3), [0.1, 0.1, 0.6, 0.9]),
            (RewardSpec(mode="level", every=3, unscored="zero"), [0, 0, 0.6, 0.9]),
            (RewardSpec(mode="potential", gamma=0.5, allow_pure_shaping=True, every=3), [-0.05, -0.05, 0.2, -0.6]),
            (
                RewardSpec(mode="potential", gamma=0.5, allow_pure_shaping=True, every=3, unscored="zero"),
                [-0.05, -0.05, 0.2, -0.6],
            ),
            (RewardSpec(mode="success", every=3, patience=1), [0, 0, 1, 1]),
        ],
    )
    def test_between_scored_frames(self, spec: RewardSpec, expected: list[float]) -> None:
        np.testing.assert_allclose(pay(spec).rewards, expected, atol=1e-12)

    @pytest.mark.parametrize(("unscored", "expected"), [("hold", [0, 1, 1, 1, 0]), ("zero", [0, 1, 0, 1, 0])])
    def test_the_success_rule_is_held(self, unscored: Any, expected: list[float]) -> None:
        spec = RewardSpec(mode="success", every=2, patience=1, unscored=unscored)
        paid = episode_rewards(spec, [0, 0, 0, 0], [0, 1, 1, 0], np.zeros(5), terminated=True, threshold=0.5)
        np.testing.assert_array_equal(paid.rewards, expected)


class TestSuccessRule:
    @pytest.mark.parametrize(
        ("success", "patience", "success_detected"),
        [
            ([1, 1, 0, 1, 1, 1], 2, [0, 0, 0, 1, 1]),
            ([1, 1, 0, 1, 1, 1], 1, [1, 0, 1, 1, 1]),
            ([1, 1, 1, 1, 1, 1], 3, [0, 0, 1, 1, 1]),
            ([1, 0, 0, 0, 0, 0], 1, [0, 0, 0, 0, 0]),
        ],
    )
    def test_holds_after_patience_frames_without_the_first(
        self, success: list[float], patience: int, success_detected: list[int]
    ) -> None:
        spec = RewardSpec(mode="success", patience=patience)
        paid = episode_rewards(spec, np.zeros(6), success, np.zeros(5), terminated=False, threshold=1.0)
        np.testing.assert_array_equal(paid.success_detected, np.array(success_detected, bool))
        np.testing.assert_array_equal(paid.rewards, success_detected)

    def test_fires_once_per_episode(self) -> None:
        spec = RewardSpec(patience=1, success_bonus=1.0, scale=0.0)
        paid = episode_rewards(spec, np.zeros(6), [0, 0, 1, 0, 1, 1], np.zeros(5), terminated=False, threshold=0.5)
        np.testing.assert_array_equal(paid.rewards, [0, 1, 0, 0, 0])
        np.testing.assert_array_equal(paid.fires, [False, True, False, False, False])

    def test_at_the_threshold_counts(self) -> None:
        np.testing.assert_array_equal(next_streak([1, 1, 0], [0.5, 0.49, 0.5], 0.5), [2, 0, 1])

    def test_only_scored_frames_are_counted(self) -> None:
        # Frames 0, 3, 5 are scored: two consecutive successes, three steps apart.
        spec = RewardSpec(mode="success", every=3)
        paid = episode_rewards(spec, np.zeros(3), [0, 1, 1], np.zeros(5), terminated=True, threshold=0.5)
        np.testing.assert_array_equal(paid.success_detected, [False, False, False, False, True])

    @pytest.mark.parametrize(
        ("own", "calibrated", "expected"),
        [(None, None, DEFAULT_SUCCESS_THRESHOLD), (None, 0.7, 0.7), (0.0, 0.7, 0.0), (0.9, None, 0.9)],
    )
    def test_threshold(self, own: float | None, calibrated: float | None, expected: float) -> None:
        assert RewardSpec(success_threshold=own).threshold(calibrated) == expected
        assert DEFAULT_SUCCESS_THRESHOLD == 0.65


class TestEpisode:
    def test_an_episode_of_no_steps_pays_nothing(self) -> None:
        paid = episode_rewards(DEFAULT_REWARD, [0.5], [0.5], [], terminated=True, threshold=0.5)
        assert paid.rewards.shape == paid.success_detected.shape == paid.fires.shape == (0,)

    @pytest.mark.parametrize(("progress", "success"), [([0.1] * 4, [0.1] * 5), ([0.1] * 5, [0.1] * 6), ([], [])])
    def test_predictions_must_belong_to_the_steps(self, progress: list[float], success: list[float]) -> None:
        with pytest.raises(ValueError, match="4 steps has 5 frames, of which 5 are scored with every=1"):
            episode_rewards(DEFAULT_REWARD, progress, success, TASK, terminated=True, threshold=0.5)

    def test_the_interval_decides_how_many(self) -> None:
        with pytest.raises(ValueError, match="which 3 are scored with every=3"):
            episode_rewards(RewardSpec(every=3), PROGRESS, SUCCESS, TASK, terminated=True, threshold=0.5)


def spec_of(confidence: float | None, **options: Any) -> RewardSpec:
    """A reward; the mode "success" has no progress to be confident of."""
    return RewardSpec(confidence=None if options["mode"] == "success" else confidence, **options)


SPECS = st.builds(
    spec_of,
    mode=st.sampled_from(["level", "delta", "potential", "success"]),
    task_weight=st.sampled_from([0.0, 0.5, -2.0]),
    scale=st.sampled_from([1.0, 3.0]),
    gamma=st.sampled_from([0.5, 0.99, 1.0]),
    terminal_potential=st.sampled_from(["zero", "keep"]),
    success_threshold=st.one_of(st.none(), st.sampled_from([0.0, 0.4, 0.8])),
    patience=st.integers(1, 4),
    success_bonus=st.sampled_from([0.0, 2.0]),
    terminate_on_success=st.booleans(),
    every=st.integers(1, 4),
    unscored=st.sampled_from(["hold", "zero"]),
    allow_pure_shaping=st.just(True),
    confidence=st.sampled_from([None, None, 0.0, 0.5, 0.9, 1.0]),
)


@given(data=st.data(), spec=SPECS, lengths=st.lists(st.integers(0, 12), min_size=1, max_size=5))
def test_step_by_step_is_the_whole_episode(data: st.DataObject, spec: RewardSpec, lengths: list[int]) -> None:
    """Two environments of one batch play episodes one after the other, out of step with each other."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16), label="seed"))
    threshold = spec.threshold(None)
    state = RewardState(2, spec, threshold)
    for length in lengths:
        frames = scored_steps(length + 1, spec.every)
        progress, success = rng.random(len(frames)), rng.random(len(frames))
        uncertainty = rng.choice([0.0, 0.04, 0.2, 0.5], len(frames))
        task, terminated = rng.standard_normal(length), bool(rng.integers(2))
        state.start(np.array([0]), progress[:1])
        rewards, success_detected, fires = [], [], []
        cut, ended = length, terminated
        for t in range(1, length + 1):
            scored = bool(is_scored(t, spec.every, t == length))
            held = np.searchsorted(frames, t, side="right") - 1
            other = rng.random(2)
            paid = state.step(
                progress=np.array([progress[held], other[0]]),
                success=np.array([success[held], other[1]]),
                scored=np.array([scored, rng.integers(2) == 1]),
                terminated=np.array([terminated and t == length, rng.integers(2) == 1]),
                task_rewards=np.array([task[t - 1], 0.0]),
                uncertainty=np.array([uncertainty[held], other[1] / 2]),
            )
            rewards.append(paid.rewards[0])
            success_detected.append(paid.success_detected[0])
            fires.append(paid.fires[0])
            if paid.terminated[0]:
                cut, ended = t, True
                break
        kept = scored_steps(cut + 1, spec.every)
        expected = episode_rewards(
            spec,
            progress[: len(kept)],
            success[: len(kept)],
            task[:cut],
            terminated=ended,
            threshold=threshold,
            uncertainty=uncertainty[: len(kept)],
        )
        np.testing.assert_allclose(rewards, expected.rewards, atol=1e-12)
        np.testing.assert_array_equal(success_detected, expected.success_detected)
        np.testing.assert_array_equal(fires, expected.fires)


@given(length=st.integers(1, 40), every=st.integers(1, 9))
def test_is_scored_is_scored_steps(length: int, every: int) -> None:
    steps = np.arange(length)
    np.testing.assert_array_equal(
        np.flatnonzero(is_scored(steps, every, steps == length - 1)), scored_steps(length, every)
    )


SURE, UNSURE = 0.05, 0.3


class TestConfidence:
    """Of frames worth 0.1, 0.3, 0.2, 0.6 and 0.9; where a model is not sure, the last that it was sure of counts."""

    @pytest.mark.parametrize(
        ("options", "unsure", "expected"),
        [
            ({}, (), [0.2, -0.1, 0.4, 0.3]),
            ({}, (2, 3), [0.2, 0.0, 0.0, 0.6]),
            ({}, (4,), [0.2, -0.1, 0.4, 0.0]),
            ({}, (0,), [0.2, -0.1, 0.4, 0.3]),
            ({}, (1, 2, 3, 4), [0.0, 0.0, 0.0, 0.0]),
            ({"scale": 2.0, "task_weight": 1.0}, (2, 3), [1.4, 0.0, 0.0, 3.2]),
            ({"mode": "level"}, (2, 3), [0.3, 0.0, 0.0, 0.9]),
            ({"mode": "level"}, (0, 4), [0.3, 0.2, 0.6, 0.0]),
            ({"mode": "potential", "gamma": 0.5, "allow_pure_shaping": True}, (2, 3), [0.05, -0.15, -0.15, -0.3]),
            ({"mode": "potential", "gamma": 0.5, "allow_pure_shaping": True, "terminal_potential": "keep"}, (4,),
             [0.05, -0.2, 0.1, -0.3]),
            ({"scale": 0.0, "success_bonus": 3.0}, (1, 2, 3, 4), [0.0, 0.0, 0.0, 3.0]),
        ],
    )  # fmt: skip
    def test_values(self, options: dict[str, Any], unsure: tuple[int, ...], expected: list[float]) -> None:
        spec = RewardSpec(confidence=0.8, **options)
        uncertainty = [UNSURE if frame in unsure else SURE for frame in range(5)]
        paid = episode_rewards(spec, PROGRESS, SUCCESS, TASK, terminated=True, threshold=0.65, uncertainty=uncertainty)
        np.testing.assert_allclose(paid.rewards, expected, atol=1e-12)

    @pytest.mark.parametrize(
        ("unscored", "unsure", "expected"),
        [
            ("hold", (), [0.1, 0.6, 0.6, 0.9]),
            ("hold", (1,), [0.1, 0.0, 0.0, 0.9]),
            ("hold", (0,), [0.0, 0.6, 0.6, 0.9]),
            ("zero", (), [0.0, 0.6, 0.0, 0.9]),
            ("zero", (1,), [0.0, 0.0, 0.0, 0.9]),
        ],
    )
    def test_between_scored_frames_doubt_is_held_as_well(
        self, unscored: Any, unsure: tuple[int, ...], expected: list[float]
    ) -> None:
        spec = RewardSpec(mode="level", confidence=0.8, every=2, unscored=unscored)
        uncertainty = [UNSURE if frame in unsure else SURE for frame in range(3)]
        said = ([0.1, 0.6, 0.9], None, [0.0] * 4)
        paid = episode_rewards(spec, *said, terminated=False, threshold=0.65, uncertainty=uncertainty)
        assert paid.rewards.tolist() == expected

    def test_the_bound_itself_is_sure_enough(self) -> None:
        spec = RewardSpec(confidence=0.5)
        assert spec.is_confident([0.25, 0.2501, 0.0]).tolist() == [True, False, True]
        assert RewardSpec(confidence=1.0).is_confident([0.0, 1e-6]).tolist() == [True, False]
        assert RewardSpec().is_confident(None).all()
        assert RewardSpec(confidence=0.5, scale=0.0).is_confident(None).all()

    def test_what_is_paid_by_confidence_needs_to_know_it(self) -> None:
        spec = RewardSpec(confidence=0.5)
        said = r"got no uncertainty of progress, which the reward RewardSpec\(confidence=0.5\) needs"
        with pytest.raises(ValueError, match=said):
            episode_rewards(spec, PROGRESS, SUCCESS, TASK, terminated=True, threshold=0.65)
        nothing, yes = np.zeros(1), np.ones(1, bool)
        with pytest.raises(ValueError, match=said):
            RewardState(1, spec, 0.65).step(
                progress=nothing, success=nothing, scored=yes, terminated=yes, task_rewards=nothing
            )
        assert [RewardSpec().needs_uncertainty, spec.needs_uncertainty] == [False, True]
        assert not RewardSpec(confidence=0.5, scale=0.0).needs_uncertainty

    @pytest.mark.parametrize("wrong", [[SURE] * 4, [SURE] * 4 + [np.nan], [SURE] * 4 + [-1.0]])
    def test_uncertainty_is_one_number_per_scored_frame(self, wrong: list[float]) -> None:
        with pytest.raises(ValueError, match="got uncertainty"):
            episode_rewards(
                RewardSpec(confidence=0.5), PROGRESS, SUCCESS, TASK, terminated=True, threshold=0.65, uncertainty=wrong
            )

    @given(seed=st.integers(0, 2**16), length=st.integers(1, 20), confidence=st.floats(0, 1), every=st.integers(1, 4))
    def test_delta_sums_to_the_last_confident_progress(
        self, seed: int, length: int, confidence: float, every: int
    ) -> None:
        rng = np.random.default_rng(seed)
        count = len(scored_steps(length + 1, every))
        progress, uncertainty = rng.random(count), rng.random(count) / 2
        said = (progress, None, np.zeros(length))
        spec = RewardSpec(confidence=confidence, every=every)
        paid = episode_rewards(spec, *said, terminated=False, threshold=0.5, uncertainty=uncertainty)
        sure = [0, *(np.flatnonzero(1 - 2 * uncertainty[1:] >= confidence) + 1)]
        assert paid.rewards.sum() == pytest.approx(progress[sure[-1]] - progress[0], abs=1e-9)

    @given(spec=SPECS, seed=st.integers(0, 2**16), length=st.integers(1, 20))
    def test_a_sure_model_is_paid_as_without_confidence(self, spec: RewardSpec, seed: int, length: int) -> None:
        rng = np.random.default_rng(seed)
        count = len(scored_steps(length + 1, spec.every))
        said = (rng.random(count), rng.random(count), rng.random(length))
        sure, all_of_it = (
            episode_rewards(each, *said, terminated=True, threshold=0.5, uncertainty=np.zeros(count))
            for each in (spec, replace(spec, confidence=None))
        )
        np.testing.assert_array_equal(sure.rewards, all_of_it.rewards)


class TestSpec:
    @given(spec=SPECS)
    def test_json_round_trip(self, spec: RewardSpec) -> None:
        assert RewardSpec.from_json(spec.to_json()) == spec
        assert RewardSpec.from_dict(spec.to_dict()) == spec

    def test_numbers_of_numpy_become_python_numbers(self) -> None:
        given: Any = {"scale": np.float32(0.5), "every": np.int64(3), "confidence": np.float32(0.75)}
        spec = RewardSpec(**given)
        assert json.loads(spec.to_json())["scale"] == 0.5
        assert json.loads(spec.to_json())["confidence"] == 0.75
        assert type(spec.every) is int

    def test_absent_fields_take_their_defaults(self) -> None:
        assert RewardSpec.from_json("{}") == RewardSpec() == DEFAULT_REWARD

    def test_unknown_fields_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"unknown RewardSpec fields \['discount'\].*gamma"):
            RewardSpec.from_dict({"mode": "delta", "discount": 0.9})

    def test_json_must_be_an_object(self) -> None:
        with pytest.raises(ValueError, match="expected a JSON object"):
            RewardSpec.from_json("[1]")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ('{"scale": NaN}', "NaN is not finite"),
            ('{"task_weight": -Infinity}', "-Infinity is not finite"),
            ('{"success_bonus": 1e999}', "success_bonus must be finite"),
            (f'{{"scale": 1{"0" * 400}}}', "scale must be finite, got inf"),
            ('{"success_threshold": NaN}', "NaN is not finite"),
            ('{"success_threshold": 1.5}', r"a probability in \[0, 1\], got 1.5"),
            ('{"patience": -1}', "patience must be at least 1, got -1"),
            (f'{{"every": 1{"0" * 30}}}', "every must be at most 2147483647"),
            ('{"patience": 2.0}', "patience must be an integer, got 2.0"),
            ('{"every": "2"}', "every must be an integer, got '2'"),
            ('{"gamma": 0, "mode": "potential"}', r"gamma must be in \(0, 1\]"),
            ('{"scale": null}', "scale must be a number, got None"),
            ('{"confidence": -0.1}', r"confidence of RewardSpec must be a number in \[0, 1\], got -0.1"),
            ('{"confidence": "0.5"}', "confidence of RewardSpec must be a number"),
            (f'{{"confidence": 1{"0" * 400}}}', "confidence of RewardSpec must be a number in"),
            ('{"terminate_on_success": 1}', "terminate_on_success must be True or False"),
            ('{"mode": ["delta"]}', "mode must be one of"),
            ('{"mode": "delta"', "expected a JSON object with RewardSpec fields"),
            ("[" * 100_000, "expected a JSON object with RewardSpec fields"),
        ],
    )
    def test_every_wrong_value_in_a_file_is_a_value_error(self, text: str, said: str) -> None:
        with pytest.raises(ValueError, match=said) as raised:
            RewardSpec.from_json(text)
        assert len(str(raised.value)) < 500

    @pytest.mark.parametrize("threshold", [float("nan"), -0.1, 1.1])
    def test_a_model_whose_threshold_is_no_probability_is_refused(self, threshold: float) -> None:
        with pytest.raises(ValueError, match="the model's success_threshold is"):
            DEFAULT_REWARD.threshold(threshold)
        assert RewardSpec(success_threshold=0.3).threshold(threshold) == 0.3

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"mode": "relative"}, ValueError, "mode must be one of 'level', 'delta', 'potential', 'success'"),
            ({"terminal_potential": None}, ValueError, "terminal_potential must be one of 'zero', 'keep'"),
            ({"unscored": "skip"}, ValueError, "unscored must be one of 'hold', 'zero'"),
            ({"scale": float("nan")}, ValueError, "scale must be finite"),
            ({"task_weight": "1"}, TypeError, "task_weight must be a number"),
            ({"success_bonus": True}, TypeError, "success_bonus must be a number"),
            ({"gamma": 0.0}, ValueError, r"gamma must be in \(0, 1\]"),
            ({"gamma": 1.5}, ValueError, r"gamma must be in \(0, 1\]"),
            ({"success_threshold": 65}, ValueError, r"success_threshold is a probability in \[0, 1\], got 65"),
            ({"patience": 0}, ValueError, "patience must be at least 1"),
            ({"every": 2.0}, TypeError, "every must be an integer"),
            ({"every": True}, TypeError, "every must be an integer"),
            ({"terminate_on_success": 1}, TypeError, "terminate_on_success must be True or False"),
            ({"mode": "potential", "task_weight": 1.0}, ValueError, "needs gamma"),
            ({"mode": "potential", "gamma": 0.9}, ValueError, "without a task reward cannot teach the task"),
            ({"confidence": 1.5}, ValueError, r"confidence of RewardSpec must be a number in \[0, 1\], got 1.5"),
            (
                {"confidence": float("nan")},
                ValueError,
                r"confidence of RewardSpec must be a number in \[0, 1\], got nan",
            ),
            ({"confidence": "high"}, TypeError, r"confidence of RewardSpec must be a number in \[0, 1\], got 'high'"),
            ({"confidence": True}, TypeError, "confidence of RewardSpec must be a number"),
            ({"mode": "success", "confidence": 0.8}, ValueError, "confidence holds back progress, of which mode"),
        ],
    )
    def test_invalid_values(self, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            RewardSpec(**arguments)

    def test_it_is_frozen(self) -> None:
        with pytest.raises(AttributeError):
            DEFAULT_REWARD.scale = 2.0  # type: ignore[misc]


def test_importing_rewards_imports_no_model_packages() -> None:
    code = "import sys, robometer_rl.rewards; assert not {'torch', 'transformers', 'gymnasium'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


class TestTaskRewardsThatAreNotFinite:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_without_a_weight_they_do_not_matter(self, value: float) -> None:
        paid = episode_rewards(RewardSpec(), [0.0, 0.5, 1.0], [0.0] * 3, [value] * 2, terminated=True, threshold=0.5)
        assert paid.rewards.tolist() == [0.5, 0.5]

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_with_a_weight_the_steps_are_named(self, value: float) -> None:
        rewards = [0.0, value, 0.0, value]
        with pytest.raises(NonFiniteRewardError, match=rf"own reward is {value} \(step 1, 3\), and task_weight=-0.5"):
            episode_rewards(RewardSpec(task_weight=-0.5), [0.0] * 5, [0.0] * 5, rewards, terminated=True, threshold=0.5)

    def test_in_a_batch_the_environment_is_named(self) -> None:
        state = RewardState(3, RewardSpec(task_weight=1.0), 0.5)
        nothing = np.zeros(3)
        with pytest.raises(NonFiniteRewardError, match=r"\(environment 2\)"):
            state.step(
                progress=nothing,
                success=nothing,
                scored=np.ones(3, bool),
                terminated=np.zeros(3, bool),
                task_rewards=np.array([0.0, 1.0, np.nan]),
            )


class TestPredictionsThatAreNone:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1.1])
    @pytest.mark.parametrize("name", ["progress", "success"])
    def test_the_place_is_named(self, name: str, value: float) -> None:
        said = {"progress": [0.0, 0.5, 1.0], "success": [0.0, 0.5, 1.0]}
        said[name][1] = value
        with pytest.raises(ValueError, match=rf"got {name} {value:g} at place 1; expected numbers in \[0, 1\]"):
            episode_rewards(RewardSpec(), **said, task_rewards=[0.0] * 2, terminated=True, threshold=0.5)

    @pytest.mark.parametrize("threshold", [np.nan, 1.5, -1.0])
    def test_a_threshold_is_a_probability(self, threshold: float) -> None:
        with pytest.raises(ValueError, match="got threshold"):
            episode_rewards(RewardSpec(), [0.0] * 3, [0.0] * 3, [0.0] * 2, terminated=True, threshold=threshold)

    def test_task_rewards_are_one_per_step(self) -> None:
        with pytest.raises(ValueError, match=r"got task_rewards of shape \(2, 1\)"):
            episode_rewards(RewardSpec(), [0.0] * 3, [0.0] * 3, [[0.0]] * 2, terminated=True, threshold=0.5)


class TestRewardsThatAreTooLarge:
    @pytest.mark.parametrize("name", ["task_weight", "scale", "success_bonus"])
    def test_weights_beyond_32_bits(self, name: str) -> None:
        with pytest.raises(ValueError, match=rf"{name} must be at most 3.40282e\+38, the largest reward, got -1e\+39"):
            RewardSpec(**cast(Any, {name: -1e39}))

    def test_what_they_come_to(self) -> None:
        spec = RewardSpec(task_weight=3e38)
        with pytest.raises(NonFiniteRewardError, match=r"the reward is 3e\+39 \(step 1\), and the largest one"):
            episode_rewards(spec, [0.0] * 3, [0.0] * 3, [1.0, 10.0], terminated=True, threshold=0.5)
        with pytest.raises(NonFiniteRewardError, match=r"the reward is inf \(step 0\)"):
            episode_rewards(spec, [0.0] * 3, [0.0] * 3, [1e300, 1.0], terminated=True, threshold=0.5)
