from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robometer_rl.data.sources.reading import Unreadable
from robometer_rl.relabeling.packs import Decoded, Pack, ahead, decode_episode, packs
from tests.relabeling.episodes import MEMORY, MemoryDataset, record


def keys(pack: Pack) -> list[str]:
    return [entry.name if isinstance(entry, Unreadable) else entry.episode.key for entry in pack]


def dataset(lengths: list[int], broken: frozenset[int] = frozenset()) -> MemoryDataset:
    episodes = {str(number): record(length, number) for number, length in enumerate(lengths)}
    return MemoryDataset(episodes, broken=frozenset(map(str, broken)))


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    broken=st.frozensets(st.integers(0, 11)),
    budget=st.integers(1, 80),
)
def test_packs_hold_every_episode_once_fit_the_budget_and_do_not_depend_on_where_a_run_begins(lengths, broken, budget):
    data = dataset(lengths, broken)
    whole = list(packs(data, 0, 1, budget))
    assert [key for pack in whole for key in keys(pack)] == list(data.keys)
    for pack in whole:
        tokens = [entry.tokens for entry in pack if isinstance(entry, Decoded)]
        assert len(tokens) == 1 or sum(tokens) <= budget
    start = 0
    for number, pack in enumerate(whole):
        assert [keys(later) for later in packs(data, start, 1, budget)] == [keys(later) for later in whole[number:]]
        start += len(pack)


def test_tokens_count_scored_frames_of_all_cameras_and_instructions():
    episodes = {"a": record(6, 0, size=40, cameras=("front", "wrist"))}
    entry = decode_episode(MemoryDataset(episodes), "a", every=1)
    assert entry.tokens == 2 * 7 * (2 * 2 + 2)
    asked_twice = replace(MEMORY, tasks=("open", "pull"))
    entry = decode_episode(MemoryDataset(episodes, asked_twice), "a", every=4)
    assert [len(clip) for clip in entry.clips] == [3, 3, 3, 3]
    assert [clip.task for clip in entry.clips] == ["open", "pull", "open", "pull"]


def test_an_episode_that_cannot_be_read_is_in_its_place():
    (pack,) = packs(dataset([2, 3, 2], frozenset({1})), 0, 1, 10_000)
    assert pack[1] == Unreadable("1", "a hole in the file")


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
    assert reached.wait(5)
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
