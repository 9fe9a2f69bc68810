"""A monitor says what an episode does, a procedure what a robot does next."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robometer_rl.monitor import STATES, Monitor, MonitorSpec, Procedure, Stage, State, Status, episode_states
from robometer_rl.prediction import Prediction, StepPrediction
from robometer_rl.rewards import DEFAULT_SUCCESS_THRESHOLD, success_holds

NO_BINS = np.zeros((1, 0), np.float32)
SPEC = MonitorSpec(window=3, gain=0.05, loss=0.15)


def said(progress: float, success: float = 0.0, bins: list[float] | None = None) -> StepPrediction:
    """Of one frame."""
    return StepPrediction([progress], [success], NO_BINS if bins is None else np.array([bins], np.float32))  # pyright: ignore[reportArgumentType]


def states_of(progress: list[float], spec: MonitorSpec = SPEC, success: list[float] | None = None) -> list[State]:
    """Of an episode."""
    monitor = Monitor(spec)
    probabilities = success or [0.0] * len(progress)
    return [monitor.step(said(*frame))[0].state for frame in zip(progress, probabilities, strict=True)]


def test_standing_still_is_noticed_after_a_window_and_moving_on_ends_it() -> None:
    found = states_of([0.0, 0.1, 0.2, 0.2, 0.2, 0.2, 0.22, 0.3, 0.35])
    assert found == ["advancing"] * 5 + ["stalled", "stalled", "advancing", "advancing"]


def test_falling_back_is_no_standing_still() -> None:
    assert states_of([0.5, 0.5, 0.5, 0.3, 0.3, 0.3, 0.3])[3:] == ["regressing"] * 3 + ["stalled"]


def test_done_is_a_vote_of_the_newest_frames_and_stays() -> None:
    spec = MonitorSpec(success_threshold=0.5, needed=2, out_of=3, window=2)
    assert states_of([0.0, 0.2, 0.4, 0.6, 0.6, 0.1, 0.1], spec, [0.9, 0.9, 0.0, 0.9, 0.0, 0.0, 0.0])[3:] == ["done"] * 4
    # The frame of the reset does not vote, nor do frames before the vote.
    assert "done" not in states_of([0.0, 0.2, 0.4, 0.6, 0.8], spec, [0.9, 0.9, 0.0, 0.0, 0.9])
    high = MonitorSpec(success_threshold=0.5, least_progress=0.7)
    assert "done" not in states_of([0.0, 0.2, 0.4, 0.6], high, [0.0, 0.9, 0.9, 0.9])
    assert states_of([0.0, 0.7, 0.8], high, [0.0, 0.9, 0.9])[-1] == "done"


@given(st.lists(st.integers(0, 10), min_size=1, max_size=20), st.integers(1, 4))
def test_a_vote_of_all_is_the_success_rule_of_rewards(tenths: list[int], patience: int) -> None:
    success = [tenth / 10 for tenth in tenths]
    spec = MonitorSpec(success_threshold=0.5, needed=patience, out_of=patience)
    found = [state == "done" for state in states_of([0.5] * len(success), spec, success)]
    holds = success_holds(np.array(success), 0.5, patience)
    assert found == np.logical_or.accumulate(holds).tolist()


def test_doubt_goes_before_what_is_doubted() -> None:
    spec = MonitorSpec(window=2, gain=0.1, most_uncertainty=0.2, doubtful=2)
    monitor = Monitor(spec)
    sure, unsure = [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]
    shown = [sure, unsure, unsure, unsure, sure, sure]
    found = [monitor.step(said(0.5, bins=bins))[0].state for bins in shown]
    assert found == ["advancing", "advancing", "uncertain", "uncertain", "stalled", "stalled"]
    with pytest.raises(ValueError, match=r"most_uncertainty=None"):
        Monitor(spec).step(said(0.5))


@given(st.data())
def test_episodes_side_by_side_do_not_touch_each_other(data: st.DataObject) -> None:
    spec = MonitorSpec(window=2, gain=0.1, loss=0.3, success_threshold=0.6, needed=1, out_of=2)
    together, alone = Monitor(spec, episodes=3), [Monitor(spec) for _ in range(3)]
    for _ in range(data.draw(st.integers(1, 12))):
        chosen = data.draw(st.lists(st.integers(0, 2), unique=True, min_size=1))
        if data.draw(st.booleans()):
            together.start(chosen)
            for index in chosen:
                alone[index].start()
        progress = [data.draw(st.sampled_from([0.0, 0.3, 0.5, 0.9])) for _ in chosen]
        success = [data.draw(st.sampled_from([0.1, 0.7])) for _ in chosen]
        newest = StepPrediction(progress, success, np.zeros((len(chosen), 0)))  # pyright: ignore[reportArgumentType]
        found = together.step(newest, chosen)
        assert found == [alone[i].step(said(p, s))[0] for i, p, s in zip(chosen, progress, success, strict=True)]
        assert {each.state for each in found} <= set(STATES)


def test_changes_are_told_and_done_may_be_confirmed() -> None:
    told: list[tuple[int, Status]] = []
    allowed = [False, False, True]
    monitor = Monitor(
        MonitorSpec(window=1, gain=0.1, needed=1, out_of=1),
        episodes=1,
        on_change=lambda index, status: told.append((index, status)),
        confirm=lambda index: allowed.pop(0),
    )
    for progress in (0.0, 0.2, 0.4, 0.4, 0.4):
        monitor.step(said(progress, 0.9 if progress else 0.0))
    assert [(index, status.state) for index, status in told] == [(0, "done")]
    assert (told[0][1].frames, told[0][1].progress, told[0][1].gained) == (1, pytest.approx(0.4), pytest.approx(0.0))
    assert not allowed


def test_a_recorded_episode_has_the_states_of_a_live_one() -> None:
    progress, success = [0.0, 0.2, 0.2, 0.2, 0.2, 0.9], [0.0, 0.0, 0.0, 0.0, 0.8, 0.8]
    recorded = Prediction(progress, success, np.zeros((6, 0)), "given", "example")  # pyright: ignore[reportArgumentType]
    assert episode_states(recorded, SPEC, 0.7) == states_of(progress, MonitorSpec(0.7, window=3, gain=0.05), success)
    without = Prediction(progress, None, np.zeros((6, 0)), "given", "example")  # pyright: ignore[reportArgumentType]
    assert "done" not in episode_states(without, SPEC)


def test_the_threshold_is_the_specs_the_models_or_the_default() -> None:
    assert Monitor(MonitorSpec(0.3), calibrated=0.8).threshold == 0.3
    assert Monitor(calibrated=0.8).threshold == 0.8
    assert Monitor().threshold == DEFAULT_SUCCESS_THRESHOLD


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"window": 0}, "window of MonitorSpec must be a whole number of at least 1"),
        ({"needed": 3, "out_of": 2}, "needed of MonitorSpec is at most out_of, got 3 of 2"),
        ({"loss": 0.0}, r"loss of MonitorSpec must be a number in \(0, 1\]"),
        ({"gain": float("nan")}, "gain of MonitorSpec"),
        ({"most_uncertainty": 0.6}, "most_uncertainty"),
    ],
)
def test_numbers_that_cannot_work_are_refused(fields: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        MonitorSpec(**fields)  # pyright: ignore[reportArgumentType]


def test_a_spec_is_read_as_it_was_written_and_nothing_else() -> None:
    spec = MonitorSpec(0.4, 2, 3, 0.1, 7, 0.03, 0.3, 0.25, 4)
    assert MonitorSpec.from_json(spec.to_json()) == spec
    with pytest.raises(ValueError, match="fields of MonitorSpec"):
        MonitorSpec.from_json('{"windows": 3}')
    for text in ('{"window": "three"}', '{"window": 3', "[]"):
        with pytest.raises(ValueError, match="MonitorSpec"):
            MonitorSpec.from_json(text)
    with pytest.raises(ValueError, match="the model's success_threshold is 65"):
        Monitor(calibrated=65)
    with pytest.raises(ValueError, match="expected one each"):
        Monitor(episodes=2).step(said(0.1))


def walk(procedure: Procedure, frames: list[tuple[float, float]]) -> list[tuple[str | None, bool, str]]:
    """Orders after each frame (progress, success)."""
    found = []
    for frame in frames:
        order = procedure.step(said(*frame))
        found.append((order.task, order.is_new, order.outcome))
    return found


QUICK = MonitorSpec(success_threshold=0.5, needed=1, out_of=1, window=2, gain=0.1)


def test_stages_follow_each_other_when_they_are_done() -> None:
    procedure = Procedure([Stage("open the drawer", 10), Stage("take the cup", 10)], QUICK)
    assert procedure.order.task == "open the drawer"
    assert procedure.order.is_new
    frames = [(0.0, 0.0), (0.5, 0.0), (0.9, 0.9), (0.0, 0.9), (0.9, 0.9)]  # the first frame of a stage does not vote
    assert walk(procedure, frames) == [
        ("open the drawer", False, "running"),
        ("open the drawer", False, "running"),
        ("take the cup", True, "running"),
        ("take the cup", False, "running"),
        (None, False, "finished"),
    ]
    with pytest.raises(ValueError, match="has finished"):
        procedure.step(said(0.0))


def test_what_goes_wrong_is_recovered_from_and_tried_again_and_given_up() -> None:
    procedure = Procedure([Stage("open the drawer", 10, recovery="go home")], QUICK)
    stuck = [(0.0, 0.0)] * 3
    assert walk(procedure, stuck)[-1] == ("go home", True, "running")
    assert procedure.order.recovering
    assert walk(procedure, [(0.0, 0.0), (0.9, 0.9)])[-1] == ("open the drawer", True, "running")
    assert not procedure.order.recovering
    assert walk(procedure, stuck)[-1] == (None, False, "gave up")


def test_time_runs_out_and_without_recovery_it_is_tried_again() -> None:
    procedure = Procedure([Stage("open the drawer", 3)], MonitorSpec(window=10))
    slowly = [(0.1 * t, 0.0) for t in range(3)]
    assert walk(procedure, slowly)[-1] == ("open the drawer", True, "running")
    assert walk(procedure, slowly)[-1] == (None, False, "gave up")


def test_stages_are_checked() -> None:
    with pytest.raises(ValueError, match="at least one Stage"):
        Procedure([])
    with pytest.raises(ValueError, match="timeout of Stage"):
        Stage("open the drawer", 0)
    with pytest.raises(ValueError, match="instruction"):
        Stage(" ", 3)
