import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robometer_rl.data.subsampling import ChosenFrames, kept_frames, thin
from tests.data.runs import trajectory


@given(st.integers(1, 300), st.integers(1, 40), st.none() | st.integers(2, 40))
def test_both_ends_are_kept_and_the_limits_hold(num_frames, every, max_frames):
    kept = kept_frames(num_frames, every, max_frames)
    assert kept[0] == 0
    assert kept[-1] == num_frames - 1
    gaps = np.diff(kept)
    assert (gaps > 0).all()
    if max_frames is None:
        assert (gaps[:-1] == every).all()
    else:
        assert len(kept) <= max_frames


def test_frames_by_hand():
    assert kept_frames(12, every=5).tolist() == [0, 5, 10, 11]
    assert kept_frames(100, max_frames=32)[-1] == 99, "the reference keeps 96"
    assert kept_frames(32, max_frames=8).tolist() == [0, 4, 9, 13, 18, 22, 27, 31]
    assert kept_frames(40, every=10, max_frames=3).tolist() == [0, 20, 39]


@pytest.mark.parametrize(("every", "max_frames"), [(0, None), (1, 1), (1, 0), (-2, None)])
def test_what_makes_no_sense_is_refused(every, max_frames):
    with pytest.raises(ValueError, match=r"every|max_frames"):
        kept_frames(10, every, max_frames)


def test_arrays_are_thinned_with_their_frames():
    run = trajectory(num_frames=10, state=np.arange(20).reshape(10, 2), actions=np.zeros((10, 3)))
    thinned = thin(run, every=4)
    np.testing.assert_array_equal(thinned.frames[:], np.asarray(run.frames)[[0, 4, 8, 9]])
    assert thinned.steps.tolist() == [0, 12, 24, 27]
    assert thinned.success.tolist() == [False, True, True, True]
    assert thinned.state.tolist() == [[0, 1], [8, 9], [16, 17], [18, 19]]
    np.testing.assert_array_equal(thinned.proprioception, run.proprioception[[0, 4, 8, 9]])
    assert thinned.actions is None, "one of them no longer leads from a frame to the next"
    assert (thinned.task, thinned.metadata) == (run.task, run.metadata)
    assert thin(run, max_frames=10) is run


@given(st.lists(st.integers(0, 199), min_size=1, max_size=20), st.data())
def test_chosen_frames_are_chosen_like_those_of_an_array(kept, data):
    frames = np.arange(200 * 2 * 3 * 3, dtype=np.uint32).astype(np.uint8).reshape(200, 2, 3, 3)
    chosen = ChosenFrames(OnlySlices(frames), np.array(kept))
    expected = frames[kept]
    assert chosen.shape == expected.shape
    index = data.draw(st.integers(-len(kept), len(kept) - 1))
    np.testing.assert_array_equal(chosen[index], expected[index])
    some = data.draw(st.lists(st.integers(0, len(kept) - 1), min_size=1))
    np.testing.assert_array_equal(chosen[some], expected[some])
    np.testing.assert_array_equal(chosen[1:], expected[1:])
    np.testing.assert_array_equal(np.asarray(chosen), expected)


def test_no_more_is_read_than_a_window():
    frames = OnlySlices(np.zeros((1000, 2, 2, 3), np.uint8))
    ChosenFrames(frames, np.arange(0, 1000, 100))[:]
    assert max(frames.lengths) <= 64


class OnlySlices:
    """Frames that can do what a recording has to, and note how many were read at once."""

    def __init__(self, frames):
        self.frames, self.shape, self.lengths = frames, frames.shape, []

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, index):
        assert isinstance(index, slice)
        self.lengths.append(len(self.frames[index]))
        return self.frames[index]
