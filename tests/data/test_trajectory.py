import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robometer_rl.data.trajectory import Trajectory, TrajectoryError, linear_progress
from robometer_rl.frames import FrameError, TaskError


def trajectory(num_frames=3, **fields):
    given_fields = {
        "id": "a",
        "task": "open the drawer",
        "frames": np.zeros((num_frames, 4, 5, 3), np.uint8),
        "quality_label": "failure",
        "data_source": "somewhere",
    }
    return Trajectory(**{**given_fields, **fields})


@pytest.mark.parametrize("task", ["", "  ", None, 3])
def test_a_trajectory_has_a_task(task):
    with pytest.raises(TaskError):
        trajectory(task=task)


@pytest.mark.parametrize("instruction", ["", None])
def test_paraphrases_are_instructions_too(instruction):
    with pytest.raises(TaskError):
        trajectory(instructions=("pull it", instruction))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_frames": 1}, "'a' has 1 frame"),
        ({"partial_success": 1.5}, r"'a' has partial success 1.5.*\[0, 1\]"),
        ({"partial_success": -0.1}, "partial success -0.1"),
        ({"partial_success": float("nan")}, "partial success nan"),
        ({"quality_label": "optimal"}, "'optimal'.*successful"),
        ({"success": [True, False]}, r"success of shape \(2,\) for 3 frames"),
        ({"progress": [0.0, 0.5, 1.2]}, r"progress from 0 to 1.2; expected values in \[0, 1\]"),
        ({"progress": [-0.1, 0.5, 1.0]}, "progress from -0.1 to 1"),
        ({"progress": [0.0, np.nan, 1.0]}, "NaN or infinite values in progress"),
        ({"progress": [0.0, 1.0]}, r"progress of shape \(2,\) for 3 frames"),
        ({"state": np.zeros(3)}, r"state of shape \(3,\) for 3 frames; expected 2"),
        ({"distance": [0.1, np.nan, 0.2]}, "NaN or infinite values in distance"),
        ({"success": [0.0, 0.5, 1.0]}, r"success 0.5 in frame 1; expected True or False \(1 or 0\)"),
        ({"success": [0, 2, 1]}, "success 2 in frame 1"),
        ({"success": [0.0, np.nan, 1.0]}, "NaN or infinite values in success"),
        ({"success": [True, None, False]}, "success of dtype object; expected bool of every frame, or None"),
        ({"success": ["no", "no", "yes"]}, "success of dtype <U3"),
        ({"steps": [0.0, np.nan, 2.0]}, "NaN or infinite values in steps"),
        ({"steps": [0.0, 1.5, 2.0]}, "steps 1.5 in frame 1; expected whole numbers"),
        ({"steps": [0.0, 1e30, 2e30]}, "steps"),
        ({"steps": [0, 2, 1]}, "steps that are below 0 or go back"),
        ({"steps": [-1, 0, 1]}, "steps that are below 0 or go back"),
        ({"distance": [0.1, -0.1, 0.2]}, "a distance of -0.1"),
        ({"distance": [0.1, 1e300, 0.2]}, "NaN or infinite values in distance"),
        ({"state": np.full((3, 2), np.inf)}, "NaN or infinite values in state"),
        (
            {"actions": np.zeros((1, 2))},
            r"actions of shape \(1, 2\) for 3 frames; expected 2 .*or for all but the last",
        ),
        ({"actions": np.zeros(3)}, r"actions of shape \(3,\) for 3 frames"),
        ({"proprioception": np.zeros((2, 2))}, r"proprioception of shape \(2, 2\) for 3 frames"),
        ({"state": torch.zeros(3, 2, device="meta")}, "state that cannot be read"),
        ({"state": [[1.0], [1.0, 2.0], [1.0]]}, "state that cannot be read"),
        ({"partial_success": "0.5"}, "partial success '0.5'"),
        ({"partial_success": True}, "partial success True"),
        ({"seed": 1.5}, "the seed 1.5; expected a whole number"),
        ({"instructions": "pull it"}, "the instructions 'pull it'; expected a tuple"),
        ({"id": ""}, "the id ''"),
        ({"data_source": " "}, "the data_source ' '"),
        ({"split": ""}, "the split ''"),
        ({"source": ""}, "the source ''"),
    ],
)
def test_what_cannot_be_learned_from_is_named(fields, message):
    with pytest.raises(TrajectoryError, match=message):
        trajectory(**fields)


def test_frames_must_be_pictures():
    with pytest.raises(FrameError):
        trajectory(frames=np.zeros((3, 4, 5), np.uint8))


def test_per_frame_arrays_get_their_types():
    run = trajectory(success=[0, 1, 1], progress=[0, 1, 1], state=[[1, 2]] * 3, distance=[3, 2, 1], steps=[0, 4, 8])
    assert run.progress is not None
    assert run.progress.dtype == np.float32
    assert run.success is not None
    assert run.success.dtype == np.bool_
    assert run.state is not None
    assert run.state.dtype == np.float32
    assert run.distance is not None
    assert run.distance.dtype == np.float32
    assert run.steps is not None
    assert run.steps.dtype == np.int64


def test_numbers_of_other_libraries_become_pythons_own():
    run = trajectory(
        success=torch.tensor([0.0, 1.0, 1.0]),
        steps=np.array([0, 2, 2], np.float64),
        partial_success=np.float32(0.5),
        seed=np.int64(3),
    )
    assert run.success is not None
    assert run.success.tolist() == [False, True, True]
    assert run.steps is not None
    assert run.steps.tolist() == [0, 2, 2]
    assert type(run.partial_success) is float
    assert type(run.seed) is int


@pytest.mark.parametrize(
    ("success", "index"), [(None, None), ([0, 0, 0], None), ([0, 1, 0], 1), ([1, 1, 1], 0), ([0, 0, 1], 2)]
)
def test_the_first_success(success, index):
    assert trajectory(success=success).success_index == index


def test_a_clip_asks_about_the_task_or_about_another():
    run = trajectory(num_frames=4)
    assert len(run) == len(run.clip()) == 4
    assert run.clip().task == "open the drawer"
    assert run.clip("close it").task == "close it"


def test_linear_progress_by_hand():
    np.testing.assert_allclose(linear_progress(6, 4), [0, 0.25, 0.5, 0.75, 1, 1])
    np.testing.assert_allclose(linear_progress(2, 1), [0, 1])


@given(st.integers(2, 200), st.data())
def test_linear_progress_runs_from_reset_to_first_success(num_frames, data):
    success_index = data.draw(st.integers(1, num_frames - 1))
    progress = linear_progress(num_frames, success_index)
    assert progress.shape == (num_frames,)
    assert progress.dtype == np.float32
    assert progress[0] == 0
    assert np.all(progress[:success_index] < 1)
    assert np.all(progress[success_index:] == 1)
    np.testing.assert_allclose(np.diff(progress[: success_index + 1]), 1 / success_index, rtol=1e-4)


@pytest.mark.parametrize("success_index", [-1, 0, 5, 6])
def test_linear_progress_needs_a_success_after_the_reset_frame(success_index):
    with pytest.raises(ValueError, match="first success at frame"):
        linear_progress(5, success_index)
