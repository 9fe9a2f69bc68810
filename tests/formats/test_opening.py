"""Several places at once, and published data without a store."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from robometer_rl.data.store import StoreError, TrajectoryStore
from robometer_rl.formats.opening import open_episodes
from tests.data.runs import trajectory

FIXTURE = Path(__file__).parents[1] / "fixtures" / "rbm_dataset"
CACHES = f"rbm:{FIXTURE / 'processed_datasets'}"


@pytest.fixture
def store(tmp_path):
    made = TrajectoryStore(tmp_path / "store")
    for name in "ab":
        made.append(trajectory(name))
    return made.path


def test_stores_and_published_data_are_opened_together(store):
    opened = open_episodes([store, CACHES, f"rbm:{FIXTURE / 'tars'}"], select=["libero_pi0"])
    assert [each.data_source for each in opened.trajectories] == ["somewhere"] * 2 + ["libero256_10"] * 3
    assert opened.held["test", "somewhere"] == 2
    assert [opened.place_of[each.id] for each in opened.trajectories] == [0, 0, 1, 1, 1]
    assert opened.trajectories[-1].frames[:].shape == (32, 64, 64, 3)


def test_the_environment_says_where_the_caches_are(monkeypatch):
    monkeypatch.delenv("ROBOMETER_PROCESSED_DATASETS_PATH", raising=False)
    monkeypatch.setenv("RBM_PROCESSED_DATASETS_PATH", str(FIXTURE / "processed_datasets"))
    assert len(open_episodes([Path("rbm:")]).trajectories) == 7


def test_what_two_places_have_is_taken_once(store, caplog):
    assert len(open_episodes([store, store]).trajectories) == 2
    assert "2 trajectories of" in caplog.text


def test_what_is_not_wanted_is_counted_and_left_out(store):
    opened = open_episodes([store, CACHES], lambda each: each.quality_label == "failure")
    assert len(opened.trajectories) == 2
    assert sum(opened.held.values()) == 9


def test_damage_is_listed_and_nothing_but_damage_an_error(tmp_path, caplog):
    cache = shutil.copytree(FIXTURE / "processed_datasets", tmp_path / "caches")
    files = sorted(Path(cache).glob("*libero*/frames/*.npz"))
    np.savez_compressed(files[0], frames=np.zeros((2, 4, 4, 3), np.uint8))
    assert len(open_episodes([f"rbm:{cache}"], select=["libero_pi0"]).trajectories) == 2
    assert "1 of 3 trajectories in rbm:" in caplog.text
    for file in files:
        file.unlink()
    with pytest.raises(StoreError, match=r"3 of 3 .* are damaged: all that are asked for"):
        open_episodes([f"rbm:{cache}"], select=["libero_pi0"])


def test_a_selection_needs_something_to_select_from(store):
    with pytest.raises(ValueError, match="got the selection mw and no published data, as in rbm:DIRECTORY"):
        open_episodes([store], select=["mw"])


@pytest.fixture
def flags(tmp_path):
    def write(**flagged):
        lines = [{"data": data, "episode": name, "flagged": True} for data, names in flagged.items() for name in names]
        path = tmp_path / "flags.jsonl"
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return path

    return write


def test_flagged_episodes_are_left_out_and_counted_where_they_were_wanted(store, flags, caplog):
    published = open_episodes([CACHES]).trajectories[0]
    path = flags(store=["a"], processed_datasets=[published.id], another=["b"])
    opened = open_episodes([store, CACHES], exclude=path)
    assert (len(opened.trajectories), opened.excluded, sum(opened.held.values())) == (1 + 6, 2, 9)
    assert {"a", published.id}.isdisjoint(each.id for each in opened.trajectories)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert open_episodes([store], lambda each: each.split == "train", exclude=path).excluded == 0


def test_a_copy_of_a_flagged_episode_is_left_out_too(store, flags, tmp_path):
    shutil.copytree(store, tmp_path / "copy")
    opened = open_episodes([tmp_path / "copy", store], exclude=flags(store=["a"]))
    assert [each.id for each in opened.trajectories] == ["b"]


def test_flags_that_fit_nothing_are_an_error_and_some_that_do_not_a_warning(store, flags, caplog):
    assert open_episodes([store], exclude=flags(store=["a", "x"])).excluded == 1
    assert "1 of the 2 episodes that" in caplog.text
    with pytest.raises(ValueError, match="is this the data that was browsed"):
        open_episodes([store], exclude=flags(store=["x"]))
    with pytest.raises(ValueError, match="and none of store"):
        open_episodes([store], exclude=flags(another=["a"]))
    # What is flagged may be in what is not selected.
    path = flags(processed_datasets=["elsewhere"])
    assert open_episodes([CACHES], select=["libero_pi0"], exclude=path).excluded == 0


def test_a_damaged_episode_that_is_flagged_is_no_other_data(store, flags):
    next((store / "frames").glob("a*")).write_bytes(b"damaged")
    assert [each.id for each in open_episodes([store], exclude=flags(store=["a"])).trajectories] == ["b"]
