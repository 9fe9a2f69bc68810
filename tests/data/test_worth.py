"""What frames are worth where a source measured it; what package simulators say is tested with the labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from robometer_rl.data.labels import label_trajectories
from robometer_rl.data.trajectory import Trajectory, TrajectoryError
from robometer_rl.data.worth import UNDONE_CEILING, Measured, SuccessRelations, measured_progress, state_parts

LENGTH = 11


def run(name: str = "a", quality: str = "failure", **fields: Any) -> Trajectory:
    given_fields = {
        "id": name,
        "task": "bring it there",
        "frames": np.zeros((LENGTH, 8, 8, 3), np.uint8),
        "quality_label": quality,
        "data_source": "mine",
        "success": np.zeros(LENGTH, bool),
    }
    return Trajectory(**{**given_fields, **fields})


def success(name: str = "done", **fields: Any) -> Trajectory:
    return run(name, "successful", success=np.arange(LENGTH) >= 10, **fields)


def measured(trajectory: Trajectory, *references: Trajectory, reaching: float = 0.25) -> Measured:
    (found,) = measured_progress([trajectory], [trajectory, *references], reaching)
    assert found is not None
    return found


def test_progress_of_ones_own_comes_first() -> None:
    own = np.linspace(0, 0.4, LENGTH)
    labels = label_trajectories([run(progress=own, distance=np.ones(LENGTH), state=np.ones((LENGTH, 3)))])[0]
    np.testing.assert_allclose(labels.progress, own, atol=1e-6)
    assert labels.progress_known.all()
    assert labels.success_known.all()
    assert measured(run(progress=own)).source == "progress"


def test_without_judged_success_the_outcome_is_that_of_the_last_frame() -> None:
    labels = label_trajectories([run(quality="successful", success=None, progress=np.linspace(0, 1, LENGTH))])[0]
    assert labels.progress_known.all()
    assert labels.success.tolist() == [0] * 10 + [1]


def test_a_distance_is_measured_from_its_first_value_to_that_of_success() -> None:
    reached = success(distance=np.linspace(1.05, 0.05, LENGTH))
    failed = run(distance=np.linspace(2.05, 1.05, LENGTH))
    np.testing.assert_allclose(measured(reached, failed).progress, np.linspace(0, 1, LENGTH), atol=1e-6)
    np.testing.assert_allclose(measured(failed, reached).progress, np.linspace(0, 0.5, LENGTH), atol=1e-6)


def test_going_away_is_worth_nothing_and_what_is_not_done_is_not_worth_all() -> None:
    done = success(distance=np.linspace(1, 0, LENGTH))
    away = run(distance=np.linspace(1, 3, LENGTH))
    close = run(distance=np.linspace(1, 0, LENGTH))
    assert measured(away, done).progress.max() == 0.0
    assert measured(close, done).progress[-1] == pytest.approx(UNDONE_CEILING)


def test_who_begins_at_the_goal_has_not_arrived() -> None:
    others = [success(f"done{n}", distance=np.linspace(1, 0, LENGTH)) for n in range(3)]
    lazy = run(distance=np.full(LENGTH, 0.001))
    assert measured(lazy, *others).progress[-1] == pytest.approx(0.95, abs=0.01)
    shaken = run(distance=np.array([0.001] + [0.1] * (LENGTH - 1)))
    assert 0.0 < measured(shaken, *others).progress[-1] < 0.6, "a tenth of the usual way is not all of it"


def test_the_way_to_an_object_counts_where_the_distance_does_not_see_it() -> None:
    """The block lies still for five frames, then goes to the goal."""
    held = success(distance=np.array([1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.0]))
    progress = measured(held).progress
    np.testing.assert_allclose(progress[:6], 0.25 * np.arange(6) / 5, atol=1e-6)
    np.testing.assert_allclose(progress[6:], [0.4, 0.55, 0.7, 0.85, 1.0], atol=1e-6)
    idle = run(distance=np.ones(LENGTH))
    assert measured(idle, held).progress.max() == 0.0, "a robot that never gets on may have reached nothing"
    assert measured(held, reaching=1.0).progress[5] == pytest.approx(0.95)


def test_without_any_success_the_goal_is_at_zero() -> None:
    np.testing.assert_allclose(measured(run(distance=np.linspace(4, 2, LENGTH))).progress[-1], 0.5, atol=1e-6)


@given(
    arrays(np.float32, LENGTH, elements=st.floats(0, 1e6, width=32)),
    arrays(np.float32, LENGTH, elements=st.floats(0, 1e6, width=32)),
)
def test_any_distance_gives_progress(one: np.ndarray, other: np.ndarray) -> None:
    for found in measured_progress(
        [run("a", distance=one), success("b", distance=other)], [success("b", distance=other)], 0.25
    ):
        assert found is not None
        assert found.progress.dtype == np.float32
        assert found.progress.min() >= 0.0
        assert found.progress.max() <= 1.0


class TestStates:
    """Columns: hand (2), block (2), goal (2), a clock, and a constant."""

    def episode(self, number: int, part: float = 1.0, **fields: Any) -> Trajectory:
        """The hand takes the block along, ``part`` of the way to the goal."""
        rng = np.random.default_rng(number)
        block, goal = rng.uniform(-0.3, 0.3, (2, 2))
        reach, carry = np.clip(np.arange(LENGTH) / 4, 0, 1), np.clip((np.arange(LENGTH) - 4) / 6, 0, part)
        place = block + carry[:, None] * (goal - block)
        hand = np.where(reach[:, None] < 1, reach[:, None] * block + (1 - reach[:, None]) * [0.5, 0.5], place)
        others = [
            np.repeat(goal[None], LENGTH, 0),
            np.arange(LENGTH)[:, None] + rng.uniform(0, 50),
            np.ones((LENGTH, 1)),
        ]
        state = np.concatenate([hand, place, *others], axis=1)
        make = success if part == 1.0 else run
        return make(f"{number}-{part}", state=state, **fields)

    def test_what_success_brings_about_is_found(self) -> None:
        episodes = [self.episode(n) for n in range(10)] + [self.episode(n, 0.3) for n in range(20, 30)]
        relations = SuccessRelations.of(episodes)
        assert relations is not None
        columns = {tuple(pair) for pair in relations._pairs.tolist()}
        assert {(2, 4), (3, 5)} <= columns, "the block is where the goal is"
        assert not any(6 in pair or 7 in pair for pair in columns), "neither the clock nor a constant"
        for episode in (self.episode(50), self.episode(51, 0.4)):
            assert relations.distance(episode)[0] == pytest.approx(1.0, abs=0.6)
        assert relations.distance(self.episode(50))[-1] < 0.1

    def test_half_of_a_task_is_worth_more_than_nothing_and_less_than_all(self) -> None:
        episodes = [self.episode(n) for n in range(10)] + [self.episode(n, 0.3) for n in range(20, 30)]
        ends = {part: measured(self.episode(60, part), *episodes).progress[-1] for part in (0.01, 0.4, 0.8, 1.0)}
        assert ends[0.01] < ends[0.4] < ends[0.8] < ends[1.0] == 1.0
        assert ends[0.01] < 0.45
        assert measured(self.episode(60, 0.4), *episodes).source == "state"

    def test_named_parts_are_compared_with_each_other_only(self) -> None:
        parts = {"state_parts": {"hand": [0, 2], "block": [2, 4], "goal": [4, 6]}}
        relations = SuccessRelations.of([self.episode(n, metadata=parts) for n in range(10)])
        assert relations is not None
        pairs = {tuple(pair) for pair in relations._pairs.tolist()}
        assert (
            {(2, 4), (3, 5)}
            <= {pair for pair in pairs if pair[1] >= 0}
            <= {
                *((0, 2), (1, 3), (0, 4)),
                *((1, 5), (2, 4), (3, 5)),
            }
        )

    def test_a_few_successes_say_too_little(self) -> None:
        episodes = [self.episode(n) for n in range(4)] + [self.episode(9, 0.3)]
        assert measured_progress(episodes, episodes, 0.25) == [None] * 5
        labels = label_trajectories(episodes)
        np.testing.assert_allclose(labels[0].progress, np.arange(LENGTH) / 10, atol=1e-6)
        assert not labels[-1].progress_known.any()

    def test_states_of_another_width_are_an_error_that_says_so(self) -> None:
        episodes = [self.episode(n) for n in range(6)]
        odd = replace(episodes[0], id="odd", state=np.zeros((LENGTH, 25)))
        with pytest.raises(TrajectoryError, match=r"'odd' has states of 25 numbers; expected 8, as in '0-1\.0'"):
            label_trajectories([*episodes, odd])

    @pytest.mark.parametrize("columns", [[0, 99], [2, 2], [-1, 2], [0], "hand", [0.0, 2.0], [True, 2]])
    def test_parts_are_columns_of_the_state(self, columns: Any) -> None:
        with pytest.raises(TrajectoryError, match=r"state part 'hand'.*of 8 columns"):
            state_parts(self.episode(0, metadata={"state_parts": {"hand": columns}}))

    def test_parts_have_names(self) -> None:
        with pytest.raises(TrajectoryError, match=r"has the state parts \[\[0, 2\]\]"):
            state_parts(self.episode(0, metadata={"state_parts": [[0, 2]]}))
        assert state_parts(self.episode(0)) == {}

    def test_twenty_one_numbers_mean_nothing_by_themselves(self) -> None:
        """Only states of this package's simulators, which name their task, are read by that layout."""
        padded = [
            replace(each, state=np.pad(np.asarray(each.state), ((0, 0), (0, 13))))
            for each in [self.episode(n) for n in range(10)]
        ]
        assert measured_progress(padded, padded, 0.25)[0].source == "state"
        labels = label_trajectories([replace(each, skill="expert") for each in padded])
        assert labels[0].progress[-1] == 1.0
