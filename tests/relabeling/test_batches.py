from __future__ import annotations

import tempfile
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robometer_rl.data.reading import Unreadable
from robometer_rl.formats.dataset import EpisodeError
from robometer_rl.frames import Clip, scored_steps
from robometer_rl.relabeling import batches
from robometer_rl.relabeling.batches import (
    Decoded,
    Opened,
    ScratchFrames,
    ahead,
    decode,
    decode_pack,
    groups,
    open_episode,
    tokens,
)
from tests.relabeling.episodes import MEMORY, MemoryDataset, record


def keys(together: list[Opened]) -> list[str]:
    return [opened.name if isinstance(opened, Unreadable) else opened.key for opened in together]


def grouped(data: MemoryDataset, start: int, budget: int) -> list[list[Opened]]:
    opened = (open_episode(data, key) for key in data.keys[start:])
    return list(groups(((episode, tokens(episode, 1)) for episode in opened), budget))


def dataset(lengths: list[int], broken: frozenset[int] = frozenset()) -> MemoryDataset:
    episodes = {str(number): record(length, number) for number, length in enumerate(lengths)}
    return MemoryDataset(episodes, broken=frozenset(map(str, broken)))


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    broken=st.frozensets(st.integers(0, 11)),
    budget=st.integers(1, 80),
)
def test_packs_hold_every_episode_once_fit_the_budget_and_do_not_depend_on_where_a_run_begins(lengths, broken, budget):
    data = dataset(lengths, broken)
    whole = grouped(data, 0, budget)
    assert [key for group in whole for key in keys(group)] == list(data.keys)
    for group in whole:
        sizes = [tokens(opened, 1) for opened in group if not isinstance(opened, Unreadable)]
        assert len(sizes) == 1 or sum(sizes) <= budget
    start = 0
    for number, group in enumerate(whole):
        assert [keys(later) for later in grouped(data, start, budget)] == [keys(later) for later in whole[number:]]
        start += len(group)


def test_tokens_count_scored_frames_of_all_cameras_and_instructions():
    episodes = {"a": record(6, 0, size=40, cameras=("front", "wrist"))}
    assert tokens(open_episode(MemoryDataset(episodes), "a"), every=1) == 2 * 7 * (2 * 2 + 2)
    opened = open_episode(MemoryDataset(episodes, replace(MEMORY, tasks=("open", "pull"))), "a")
    assert tokens(opened, every=4) == 2 * 2 * 3 * (2 * 2 + 2)
    (entry,) = decode_pack([opened], every=4)
    assert isinstance(entry, Decoded)
    assert [len(clip) for clip in entry.clips] == [3, 3, 3, 3]
    assert [clip.task for clip in entry.clips] == ["open", "pull", "open", "pull"]


def test_an_episode_that_cannot_be_read_is_in_its_place():
    (group,) = grouped(dataset([2, 3, 2], frozenset({1})), 0, 10_000)
    assert decode_pack(group, 1)[1] == Unreadable("1", "a hole in the file")


def test_an_episode_that_cannot_be_decoded_moves_no_other_to_another_pack():
    data = dataset([2, 3, 2])
    intact = [keys(group) for group in grouped(data, 0, 20)]
    # Values that are no picture, which are seen when they are decoded.
    no_picture = replace(data.recorded["1"], cameras={"front": np.full((4, 8, 8, 3), np.nan)})
    broken = grouped(replace(data, recorded={**data.recorded, "1": no_picture}), 0, 20)
    assert [keys(group) for group in broken] == intact == [["0"], ["1"], ["2"]]
    (entry,) = decode_pack(broken[1], 1)
    assert isinstance(entry, Unreadable)
    assert "camera front" in entry.reason


def test_the_next_item_is_made_while_the_last_is_used_and_not_more():
    made: list[int] = []
    reached = threading.Event()

    def items():
        for number in range(4):
            made.append(number)
            if number == 1:
                reached.set()
            yield number

    coming = ahead(items())
    assert next(coming) == 0
    assert reached.wait(300)
    assert made == [0, 1]
    assert list(coming) == [1, 2, 3]


def test_an_error_of_the_other_thread_is_raised_here():
    def items():
        yield 1
        raise OSError("no room")

    coming = ahead(items())
    assert next(coming) == 1
    with pytest.raises(OSError, match="no room"):
        next(coming)


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
    monkeypatch.setattr(batches, "IN_MEMORY_BYTES", 0 if on_disk else 1 << 20)
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
    monkeypatch.setattr(batches, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "wb"))  # noqa: SIM115
    with pytest.raises(OSError, match="TMPDIR"):
        decode(FRAMES, 1)
