import numpy as np
import pytest

from robometer_rl.data.augment import add_distractors, augment_frames


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(30, 220, (3, 48, 64, 3), dtype=np.uint8)


def test_the_seed_decides_and_all_frames_change_alike(frames):
    first = augment_frames(frames, 7)
    assert first.dtype == np.uint8
    assert first.shape == frames.shape
    np.testing.assert_array_equal(first, augment_frames(frames, 7))
    assert (first != augment_frames(frames, 8)).any()
    same = augment_frames(np.repeat(frames[:1], 3, axis=0), 7)
    np.testing.assert_array_equal(same[0], same[2])


def test_pictures_stay_recognisable(frames):
    for seed in range(30):
        changed = augment_frames(frames, seed).astype(float)
        assert 0.6 < changed.mean() / frames.mean() < 1.5
        assert changed.std() > 0.5 * frames.std()


def test_the_camera_moves_by_a_twenty_fourth_at_most():
    frames = np.zeros((1, 48, 48, 3), np.uint8)
    frames[0, 24, 24] = 255
    for seed in range(40):
        row, column, _ = np.unravel_index(augment_frames(frames, seed)[0].argmax(), (48, 48, 3))
        assert abs(row - 24) <= 2
        assert abs(column - 24) <= 2


def test_things_lie_at_one_place_in_all_frames_and_the_seed_says_which(frames):
    before = frames.copy()
    first = add_distractors(frames, (7, 1))
    np.testing.assert_array_equal(frames, before)
    assert (first.dtype, first.shape) == (np.uint8, frames.shape)
    np.testing.assert_array_equal(first, add_distractors(frames, (7, 1)))
    assert (first != add_distractors(frames, (7, 2))).any()
    same = add_distractors(np.repeat(frames[:1], 3, axis=0), 7)
    np.testing.assert_array_equal(same[0], same[2])
    assert (same[0] != frames[0]).any()


def test_things_are_few_and_small(frames):
    parts = [(add_distractors(frames, seed) != frames).any(-1).any(0).mean() for seed in range(200)]
    assert 0.001 < np.mean(parts) < 0.03
    assert max(parts) < 0.06


def test_things_do_not_lie_on_what_moves():
    clip = np.full((8, 64, 64, 3), 90, np.uint8)
    for step, frame in enumerate(clip):
        frame[20:28, 6 * step : 6 * step + 8] = 255
    track = np.zeros((64, 64), bool)
    track[20:28, :50] = True
    hidden = [((add_distractors(clip, seed) != clip).any(-1).any(0) & track).sum() / track.sum() for seed in range(60)]
    assert np.mean(hidden) < 0.005
