from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robometer_rl.data.flags import Flag
from robometer_rl.data.reading import SourceError
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.formats.dataset import DatasetOptions, RelabelDataset
from robometer_rl.formats.label_lines import LabelLinesWriter, default_lines
from robometer_rl.formats.table import open_dataset
from robometer_rl.relabeling.engine import Labeller, label_dataset
from robometer_rl.rewards import RewardSpec
from robometer_rl.studio.browsing import show_episode
from robometer_rl.studio.episodes import (
    UNKNOWN,
    Entry,
    Episode,
    Library,
    Wanted,
    chosen,
    disagreement,
    open_episodes_of,
)
from robometer_rl.studio.notes import Said
from tests.data.runs import trajectory
from tests.fixed_models import PixelModel
from tests.report.test_replay import Elements

FIXTURES = Path(__file__).parents[1] / "fixtures"


def said(episode: str, *progress: float) -> Said:
    return Said("mine", episode, "push", "mini", "nested(8)", 1, 0.5, progress, None)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = TrajectoryStore(tmp_path / "mine")
    store.append(trajectory("a", quality_label="successful", partial_success=None))
    store.append(trajectory("b", num_frames=9, quality_label="failure", task="pull", partial_success=None))
    return tmp_path / "mine"


def test_a_store_is_listed_and_opened(store: Path) -> None:
    episodes = open_episodes_of(store)
    assert list(episodes) == [1, 2]
    assert episodes.entries[1] == Entry("b", "pull", "failure", "somewhere", 9, None, "demo.hdf5#data/demo_3")
    episode = episodes.episode("b")
    assert (len(episode.frames), episode.entry) == (9, episodes.entries[1])
    assert episode.true_success is not None
    assert list(episodes) == [], "everything is listed once"
    with pytest.raises(ValueError, match="no episode 'c'"):
        episodes.episode("c")


def test_what_is_damaged_is_listed_as_such(store: Path) -> None:
    (store / "rows" / "a.json").write_text("{")
    episodes = open_episodes_of(store)
    assert list(episodes) == [1, 2]
    assert [entry.key for entry in episodes.entries] == ["b"]
    assert [entry.name for entry in episodes.skipped] == ["a"]
    with pytest.raises(ValueError, match="a: "):
        episodes.episode("a")


def test_formats_that_can_be_labelled_can_be_browsed(tmp_path: Path) -> None:
    frames = np.zeros((4, 8, 8, 3), np.uint8)
    np.savez(
        tmp_path / "one.npz", image=frames, rewards=np.zeros(3), task="push", success=np.array([False, False, True])
    )
    np.savez(tmp_path / "two.npz", image=frames, rewards=np.zeros(3), task="push")
    episodes = open_episodes_of(tmp_path)
    list(episodes)
    assert [(entry.key, entry.outcome) for entry in episodes.entries] == [
        ("one.npz", "successful"),
        ("two.npz", UNKNOWN),
    ]
    assert set(episodes.episode("two.npz").cameras) == {"image"}


def test_labels_are_shown_beside_the_rewards_that_they_have_taken_the_place_of(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    (tmp_path / "mine").mkdir()
    np.savez(tmp_path / "mine" / "one.npz", image=frames, rewards=np.array([0.0, 0, 0, 10]), task="push")
    dataset, plain = _opened(tmp_path / "mine")
    assert plain.labels is None
    assert "studio-players" in show_episode(plain, None), "there is nothing to draw"
    labels = label_dataset(dataset, Labeller(PixelModel(), RewardSpec()))
    LabelLinesWriter(dataset, default_lines(tmp_path / "mine")).write(labels)
    dataset.writer("copy").write(labels)
    for name in ("mine", "mine-robometer"):  # the lines lie beside the first, the second is a copy with labels
        _, episode = _opened(tmp_path / name)
        assert episode.labels is not None
        (series,) = _series(show_episode(episode, None))
        assert series["original"] == [0, 0, 0, 0, 10]
        assert series["rewards"][1:] == pytest.approx(labels.episodes["one.npz"].rewards.tolist(), abs=1e-4)
        assert series["progress"] == pytest.approx(labels.episodes["one.npz"].progress.tolist(), abs=1e-4)
        assert series["name"] == "labelled by pixel"
        asked = replace(said("one.npz", 0, 0.1, 0.2, 0.3, 0.4), task="push")
        both = _series(show_episode(episode, asked))
        assert [each["name"] for each in both] == ["labelled by pixel", "mini, asked here"]
    other = replace(episode, cameras={"image": frames[:4]})
    with pytest.raises(ValueError, match="those of another recording"):
        show_episode(other, None)


def _opened(path: Path) -> tuple[RelabelDataset, Episode]:
    _, dataset = open_dataset(DatasetOptions(path))
    return dataset, open_episodes_of(path).episode("one.npz")


def _series(markup: str) -> list[dict[str, Any]]:
    (section,) = Elements(markup).all("section")
    return json.loads(section["data-replay"] or "")["series"]


def test_published_data_can_be_browsed() -> None:
    pytest.importorskip("pyarrow")
    episodes = open_episodes_of(FIXTURES / "rbm_dataset" / "processed_datasets")
    list(episodes)
    assert episodes.entries
    key = episodes.entries[0].key
    assert episodes.episode(key).entry == episodes.entries[0]


def test_a_library_opens_what_it_was_given_and_nothing_else(store: Path) -> None:
    library = Library([store, FIXTURES / "metaworld"])
    assert library.names == ("mine", "metaworld")
    assert library.get("mine") is library.get("mine")
    with pytest.raises(SourceError, match="looks like none of the formats"):
        library.get("metaworld")
    for name in ("other", None):
        with pytest.raises(ValueError, match="the studio has mine, metaworld"):
            library.get(name)


ENTRIES = [
    Entry("done", "push the block", "successful", "one", 10),
    Entry("failed", "push the block", "failure", "two", 30),
    Entry("half", "pull the rope", "suboptimal", "two", 20, partial_success=0.5),
    Entry("asked", "pull the rope", UNKNOWN, "one", 5),
]


def keys(order: str, wanted: Wanted | None = None, *answers: Said) -> list[str]:
    flags = {"half": Flag("mine", "half", flagged=True), "done": Flag("mine", "done", flagged=False)}
    found = chosen(ENTRIES, wanted or Wanted(), order, {each.episode: each for each in answers}, flags)
    return [entry.key for entry in found]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(), ["done", "failed", "half", "asked"]),
        (Wanted(task="pull the rope", outcome="suboptimal"), ["half"]),
        (Wanted(source="one"), ["done", "asked"]),
        (Wanted(text="PUSH"), ["done", "failed"]),
        (Wanted(least=10, most=20), ["done", "half"]),
        (Wanted(flagged=True), ["half"]),
    ],
)
def test_filters(wanted: Wanted, expected: list[str]) -> None:
    assert keys("as recorded", wanted) == expected


def test_orders() -> None:
    assert keys("longest") == ["failed", "half", "done", "asked"]
    assert keys("shortest") == ["asked", "done", "half", "failed"]
    answers = [said("done", 0.0, 0.9), said("failed", 0.1, 0.5), said("half", 0.0, 0.7), said("asked", 0.0, 1.0)]
    # A success is paid rightly, and of an episode whose outcome nobody knows nothing can be said.
    assert keys("paid most although it failed", None, *answers) == ["half", "failed", "done", "asked"]
    assert keys("furthest from its outcome", None, *answers) == ["failed", "half", "done", "asked"]
    assert keys("furthest from its outcome", None, answers[2]) == ["half", "done", "failed", "asked"]


def test_disagreement_is_with_the_grade_if_there_is_one() -> None:
    assert disagreement(ENTRIES[0], said("done", 0.0, 0.75)) == pytest.approx(0.25)
    assert disagreement(ENTRIES[2], said("half", 0.0, 0.75)) == pytest.approx(0.25)
    assert np.isnan(disagreement(ENTRIES[3], said("asked", 0.0, 0.75)))
    assert np.isnan(disagreement(ENTRIES[0], None))


def test_cameras_are_shown_in_one_picture() -> None:
    pytest.importorskip("cv2")
    cameras = ("observation.images.wrist", "observation.images.top")
    library = Library([FIXTURES / "lerobot_v30"], cameras, tile=True)
    episodes = library.get("lerobot_v30")
    list(episodes)
    shown = episodes.episode(episodes.keys[0])
    assert shown.tiled
    assert list(shown.cameras) == ["tiles(observation.images.wrist, observation.images.top)"]
    assert shown.frames.shape == (12, 96, 64, 3)
    with pytest.raises(SourceError, match="a tiled picture needs several cameras"):
        open_episodes_of(FIXTURES / "lerobot_v30", cameras[:1], tile=True)
