from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robometer_rl.data.reading import SourceError
from robometer_rl.formats.dataset import RecordedEpisode
from robometer_rl.formats.trajectories import Stated, episode_id, outcome_of, trajectory_of

DONE = np.array([False, True])
UNDONE = np.zeros(2, bool)


@pytest.mark.parametrize(
    ("noted", "stated", "quality", "kept"),
    [
        (DONE, None, "successful", DONE),
        (UNDONE, None, "failure", UNDONE),
        (DONE, "successful", "successful", DONE),
        (DONE, "failure", "failure", None),
        (UNDONE, "successful", "successful", None),
        (UNDONE, "failure", "failure", UNDONE),
        (DONE, "suboptimal", "suboptimal", DONE),
        (None, "failure", "failure", None),
    ],
)
def test_what_is_stated_wins(noted, stated, quality, kept):
    assert outcome_of(noted, stated, "unknown") == (quality, kept)


def test_several_cameras_are_imported_in_one_picture():
    pytest.importorskip("cv2")
    views = {name: np.full((4, 32, 32, 3), level, np.uint8) for name, level in (("top", 200), ("wrist", 50))}
    episode = RecordedEpisode("0", ("open it",), views, 3, names=("0", "top", "wrist"), facts={"metadata": {"fps": 5}})
    made = trajectory_of(episode, Stated("kitchen", "successful"))
    assert (made.id, made.metadata, made.tiled) == ("kitchen-0-top-wrist", {"fps": 5, "tiled": True}, True)
    assert made.frames.shape == (4, 48, 32, 3)
    (single,) = (replace(episode, cameras={"top": views["top"]}),)
    assert not trajectory_of(single, Stated("kitchen", "successful")).tiled


def test_what_nobody_knows_is_asked_for():
    with pytest.raises(SourceError, match="say it"):
        outcome_of(None, None, "say it")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("libero", "libero_90/task_demo", "demo_0"), "libero-libero_90+task_demo-demo_0"),
        (("videos", "open drawer (1).mp4"), "videos-open=20drawer=20=281=29.mp4"),
        (("küche", "a"), "k=C3=BCche-a"),
        (("動画", "a"), "x=E5=8B=95=E7=94=BB-a"),
    ],
)
def test_names_stay_readable(names: tuple[str, ...], expected: str) -> None:
    assert episode_id(*names) == expected


@given(st.text(min_size=1, max_size=120), st.text(max_size=120))
def test_an_id_is_a_valid_name_in_a_store(data_source: str, name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,199}", episode_id(data_source, name))


@given(st.text(max_size=20), st.text(max_size=20))
def test_different_names_have_different_ids(one: str, other: str) -> None:
    assert (episode_id("source", one) == episode_id("source", other)) == (one == other)


def test_long_names_are_cut_and_still_differ() -> None:
    ids = {episode_id("videos", "a" * 300 + end) for end in "xyz"}
    assert len(ids) == 3
    assert all(len(name) == 200 for name in ids)
