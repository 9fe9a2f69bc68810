from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robometer_rl.archives import read_members
from robometer_rl.data.reading import SourceError
from robometer_rl.formats import npz
from robometer_rl.formats.dataset import DatasetOptions, EpisodeError
from robometer_rl.formats.npz import NpzFrames, open_dataset
from robometer_rl.formats.table import detect_format
from robometer_rl.relabeling.commands import relabel
from robometer_rl.relabeling.engine import Labeller
from robometer_rl.rewards import RewardSpec
from tests.fixed_models import PixelModel
from tests.relabeling.episodes import SPECS, TASK, live_rewards, record, without_last_frame, write_npz
from tests.relabeling.kinds import content

EPISODES = {
    f"episode_{number}": record(length, number, terminated=number % 2 == 0) for number, length in enumerate((3, 1, 8))
}


def label(folder: Path, output: Path, spec: RewardSpec = SPECS[0], **options):
    dataset = open_dataset(DatasetOptions(folder, **options))
    return relabel(dataset, Labeller(PixelModel(), spec), dataset.writer("copy", output))


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.mode}-{spec.every}")
def test_numpy_reads_the_rewards_that_the_live_wrapper_pays_and_the_pictures_as_they_were(tmp_path, spec):
    write_npz(tmp_path / "data", EPISODES)
    label(tmp_path / "data", tmp_path / "out", spec)
    for name, recorded in EPISODES.items():
        before, after = read(tmp_path / "data" / f"{name}.npz"), read(tmp_path / "out" / f"{name}.npz")
        np.testing.assert_allclose(after["rewards"], live_rewards(recorded, PixelModel(), spec), rtol=0, atol=1e-6)
        np.testing.assert_array_equal(after["robometer/original_rewards"], recorded.rewards)
        assert after["robometer/progress"].shape == (recorded.num_steps + 1,)
        assert not after["robometer/imputed"].any()
        for array in set(before) - {"rewards"}:
            assert before[array].dtype == after[array].dtype
            np.testing.assert_array_equal(before[array], after[array])


def test_relabelling_what_was_relabelled_starts_from_the_original_rewards(tmp_path):
    spec = RewardSpec("level", task_weight=1.0)
    write_npz(tmp_path / "data", EPISODES)
    label(tmp_path / "data", tmp_path / "once", spec)
    label(tmp_path / "once", tmp_path / "twice", spec)
    assert content(tmp_path / "once") == content(tmp_path / "twice")


def test_with_one_picture_per_step_the_last_step_is_imputed(tmp_path):
    recorded = record(5, 0)
    folder = tmp_path / "data"
    folder.mkdir()
    np.savez(folder / "a.npz", front=recorded.cameras["front"][:-1], rewards=recorded.rewards, task=np.array(TASK))
    label(folder, tmp_path / "out")
    arrays = read(tmp_path / "out" / "a.npz")
    expected = live_rewards(without_last_frame(recorded), PixelModel(), SPECS[0])
    np.testing.assert_allclose(arrays["rewards"], [*expected, 0.0], rtol=0, atol=1e-6)
    assert arrays["robometer/imputed"].tolist() == [False] * 4 + [True]


def test_pictures_alone_are_an_episode_without_rewards(tmp_path):
    recorded = record(4, 0)
    folder = tmp_path / "data"
    folder.mkdir()
    np.savez(folder / "a.npz", frames=recorded.cameras["front"])
    label(folder, tmp_path / "out", tasks=(TASK,))
    arrays = read(tmp_path / "out" / "a.npz")
    np.testing.assert_allclose(arrays["rewards"], live_rewards(recorded, PixelModel(), SPECS[0]), rtol=0, atol=1e-6)
    assert arrays["robometer/original_rewards"].shape == (0,)
    label(tmp_path / "out", tmp_path / "again", tasks=(TASK,))
    assert content(tmp_path / "out") == content(tmp_path / "again")


def test_several_cameras_are_averaged_or_one_is_chosen(tmp_path):
    recorded = record(4, 0, cameras=("front", "wrist"))
    write_npz(tmp_path / "data", {"a": recorded})
    with pytest.raises(SourceError, match="expected one of front, wrist"):
        open_dataset(DatasetOptions(tmp_path / "data"))
    label(tmp_path / "data", tmp_path / "both", cameras=("front", "wrist"))
    expected = live_rewards(recorded, PixelModel(), SPECS[0])
    np.testing.assert_allclose(read(tmp_path / "both" / "a.npz")["rewards"], expected, rtol=0, atol=1e-6)
    label(tmp_path / "data", tmp_path / "one", cameras=("wrist",))
    one = record(4, 0, cameras=("front", "wrist"))
    expected = live_rewards(type(one)({"wrist": one.cameras["wrist"]}, one.rewards), PixelModel(), SPECS[0])
    np.testing.assert_allclose(read(tmp_path / "one" / "a.npz")["rewards"], expected, rtol=0, atol=1e-6)


def test_pictures_are_turned_for_the_model_and_not_in_the_file(tmp_path):
    recorded = record(4, 0)
    upside_down = {"front": recorded.cameras["front"][:, ::-1]}
    write_npz(tmp_path / "data", {"a": type(recorded)(upside_down, recorded.rewards)})
    label(tmp_path / "data", tmp_path / "out", orientation="flip")
    arrays = read(tmp_path / "out" / "a.npz")
    np.testing.assert_allclose(arrays["rewards"], live_rewards(recorded, PixelModel(), SPECS[0]), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(arrays["front"], upside_down["front"])


def test_bad_episodes_are_listed_and_copied_as_they_are(tmp_path):
    folder = tmp_path / "data"
    write_npz(folder, EPISODES)
    sound = (folder / "episode_0.npz").read_bytes()
    (folder / "torn.npz").write_bytes(sound[: len(sound) // 2])
    np.savez(folder / "blind.npz", rewards=np.zeros(3))
    np.savez(folder / "mute.npz", front=np.zeros((3, 8, 8, 3), np.uint8), task=np.array(" "))
    np.savez(folder / "single.npz", front=np.zeros((1, 8, 8, 3), np.uint8), task=np.array("x"))
    np.savez(folder / "numbers.npz", front=np.full((3, 8, 8, 3), 300, np.int32), task=np.array("x"))
    np.savez(folder / "pickled.npz", front=np.zeros((3, 8, 8, 3), np.uint8), task=np.array({"a": 1}, object))
    flipped = bytearray(sound)
    flipped[300] ^= 255  # in the pictures, whose checksum then differs
    (folder / "flipped.npz").write_bytes(flipped)
    labels = label(folder, tmp_path / "out")
    reasons = {entry.name: entry.reason for entry in labels.skipped}
    expected = {
        "torn": "not a readable",
        "blind": "no pictures of front",
        "mute": "non-empty instruction",
        "single": "single picture",
        "numbers": "int32",
        "pickled": "Object arrays",
        "flipped": "front.npy",
    }
    assert reasons.keys() == {f"{name}.npz" for name in expected}
    for name, message in expected.items():
        assert message in reasons[f"{name}.npz"]
        assert (tmp_path / "out" / f"{name}.npz").read_bytes() == (folder / f"{name}.npz").read_bytes()
    listed = json.loads((tmp_path / "out" / "robometer.json").read_text())
    assert {entry["name"] for entry in listed["skipped"]} == reasons.keys()
    assert listed["labelled"] == 3


def test_long_episodes_are_read_forward_in_one_stream(tmp_path, monkeypatch):
    frames = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), np.uint8)
    np.savez_compressed(tmp_path / "a.npz", front=frames)
    opened = []
    monkeypatch.setattr(
        npz.zipfile.ZipFile, "open", lambda *a, open=zipfile.ZipFile.open, **k: opened.append(a[1]) or open(*a, **k)
    )
    lazy = NpzFrames(tmp_path / "a.npz", "front", read_members(tmp_path / "a.npz")["front"])
    opened.clear()
    parts = [lazy[start : start + 64] for start in range(0, 200, 64)]
    np.testing.assert_array_equal(np.concatenate(parts), frames)
    np.testing.assert_array_equal(lazy[3:100:10], frames[3:100:10])
    assert opened == ["front.npy"]


def test_fortran_order_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", front=np.asfortranarray(np.zeros((4, 8, 8, 3), np.uint8)))
    with pytest.raises(EpisodeError, match="Fortran"):
        open_dataset(DatasetOptions(tmp_path, tasks=("x",))).episode("a.npz")


def test_a_folder_of_npz_files_is_recognised(tmp_path):
    write_npz(tmp_path / "data", EPISODES)
    assert detect_format(tmp_path / "data") == "npz"
    (tmp_path / "other").mkdir()
    np.savez(tmp_path / "other" / "a.npz", x=np.zeros(3))
    with pytest.raises(SourceError, match="has pictures"):
        open_dataset(DatasetOptions(tmp_path / "other"))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"terminated": [False, True], "truncated": [False, False]}, (True, False)),
        ({"terminated": False, "truncated": True}, (False, True)),
        ({"dones": [0, 1]}, (True, False)),
        ({"dones": [0, 1], "truncated": [0, 1]}, (False, True)),
        ({}, (False, False)),
    ],
)
def test_ends_of_episodes(tmp_path, flags, expected):
    arrays: dict[str, Any] = {name: np.array(value) for name, value in flags.items()}
    np.savez(tmp_path / "a.npz", front=np.zeros((3, 8, 8, 3), np.uint8), **arrays)
    episode = open_dataset(DatasetOptions(tmp_path, tasks=("x",))).episode("a.npz")
    assert (episode.terminated, episode.truncated) == expected


def test_an_array_that_is_nothing_to_a_model_may_be_damaged(tmp_path):
    write_npz(tmp_path / "data", {"b": record(4, 1)})
    path = tmp_path / "data" / "a.npz"
    np.savez(path, front=record(4, 0).cameras["front"], task=np.array(TASK), notes=np.arange(1000))
    content = bytearray(path.read_bytes())
    content[content.find(np.arange(1000).tobytes()) + 80] ^= 1
    path.write_bytes(content)
    label(tmp_path / "data", tmp_path / "out")
    assert (tmp_path / "out" / "a.npz").read_bytes() == bytes(content)
    assert "robometer/progress" in read(tmp_path / "out" / "b.npz")
    listed = json.loads((tmp_path / "out" / "robometer.json").read_text())
    assert [(entry["name"], "notes.npy" in entry["reason"]) for entry in listed["skipped"]] == [("a.npz", True)]
    assert listed["labelled"] == 1


def test_what_was_pickled_is_copied_and_not_opened(tmp_path):
    (tmp_path / "data").mkdir()
    arrays: dict[str, Any] = {"front": record(4, 0).cameras["front"], "task": np.array(TASK)}
    np.savez(tmp_path / "data" / "a.npz", **arrays, infos=np.array([{}, None], object))
    label(tmp_path / "data", tmp_path / "out")
    assert "robometer/progress" in read_members(tmp_path / "out" / "a.npz")
    (tmp_path / "other").mkdir()
    np.savez(tmp_path / "other" / "a.npz", **arrays, success=np.array([{}, None], object))
    with pytest.raises(ValueError, match="Object arrays"):
        open_dataset(DatasetOptions(tmp_path / "other")).episode("a.npz")
