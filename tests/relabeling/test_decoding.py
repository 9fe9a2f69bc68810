from __future__ import annotations

import tempfile

import numpy as np
import pytest

from robometer_rl.formats.dataset import EpisodeError
from robometer_rl.frames import Clip, scored_steps
from robometer_rl.relabeling import decoding
from robometer_rl.relabeling.decoding import ScratchFrames, decode

FRAMES = np.random.default_rng(0).integers(0, 256, (150, 4, 6, 3), np.uint8)


class Lazy:
    """Frames that note how they are read."""

    def __init__(self, frames):
        self.frames, self.shape, self.read = frames, frames.shape, []

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, index):
        self.read.append(range(len(self))[index])
        return self.frames[index]


@pytest.mark.parametrize("every", [1, 7, 149, 200])
@pytest.mark.parametrize("on_disk", [False, True])
def test_the_scored_frames_are_decoded_once_and_forward(monkeypatch, every, on_disk):
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 0 if on_disk else 1 << 20)
    lazy = Lazy(FRAMES)
    decoded = decode(lazy, every)
    assert isinstance(decoded, ScratchFrames) is on_disk
    expected = FRAMES[scored_steps(150, every)]
    np.testing.assert_array_equal(Clip(decoded, "x").read(), expected)
    chosen = [len(expected) - 1, 0, 0]
    np.testing.assert_array_equal(Clip(decoded, "x").read(chosen), expected[chosen])
    assert [number for part in lazy.read for number in part] == scored_steps(150, every).tolist()
    assert max(map(len, lazy.read)) <= 64


def test_frames_on_disk_are_sliced_like_an_array():
    frames = ScratchFrames(FRAMES.shape)
    frames.append(FRAMES[:100])
    frames.append(FRAMES[100:])
    for part in (slice(0, 3), slice(-2, None), slice(10, 40, 7), slice(5, 5)):
        np.testing.assert_array_equal(frames[part], FRAMES[part])


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.full((3, 4, 4, 3), np.nan), "NaN"),
        (np.full((3, 4, 4, 3), 7.0), "from 7 to 7"),
        (np.full((3, 4, 4, 3), 700, np.uint16), "depth is no colour"),
    ],
)
def test_frames_of_a_wrong_type_are_named(frames, message):
    with pytest.raises(EpisodeError, match=message):
        decode(frames, 1)


def test_floats_and_channels_first_become_uint8():
    floats = (FRAMES[:5].transpose(0, 3, 1, 2) / 255.0).astype(np.float64)
    np.testing.assert_array_equal(decode(floats, 1), FRAMES[:5])


def test_frames_that_run_out_are_an_error_of_the_episode():
    class Short(Lazy):
        def __getitem__(self, index):
            return self.frames[index][:1]

    with pytest.raises(EpisodeError, match="from number 0 on have the shape"):
        decode(Short(FRAMES), 1)


def test_no_room_for_long_episodes_is_an_error_of_the_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "wb"))  # noqa: SIM115
    with pytest.raises(OSError, match="TMPDIR"):
        decode(FRAMES, 1)
