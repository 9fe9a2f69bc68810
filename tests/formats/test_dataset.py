from __future__ import annotations

import json
import os

import numpy as np
import pytest

from robometer_rl.formats import dataset
from robometer_rl.formats.dataset import EpisodeError, Provenance, RecordedEpisode, default_output, fingerprint
from robometer_rl.frames import FrameError
from robometer_rl.relabeling.engine import Labeller
from robometer_rl.rewards import RewardSpec
from tests.fixed_models import PixelModel
from tests.relabeling.episodes import MemoryDataset, record

FRAMES = np.zeros((4, 6, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ()}, "at least one"),
        ({"tasks": ("open", " ")}, "non-empty instruction"),
        ({"tasks": ("open", "x" * 5000)}, "a task of 5000 characters"),
        ({"cameras": {}}, "no pictures"),
        ({"cameras": {"a": FRAMES, "b": FRAMES[1:]}}, "different numbers"),
        ({"num_steps": 2}, "4 pictures and 2 steps"),
        ({"num_steps": 5}, "4 pictures and 5 steps"),
        ({"cameras": {"a": FRAMES[:1]}, "num_steps": 1}, "single picture"),
        ({"task_rewards": np.zeros(2)}, "expected \\(3,\\)"),
    ],
)
def test_an_episode_that_cannot_be_labelled_says_why(change, message):
    sound = {"key": "a", "tasks": ("open",), "cameras": {"a": FRAMES}, "num_steps": 3}
    assert RecordedEpisode(**sound).num_frames == 4
    with pytest.raises(EpisodeError, match=message):
        RecordedEpisode(**(sound | change)).check_steps()


def test_the_old_name_of_an_episode_leads_to_it():
    with pytest.warns(DeprecationWarning, match="RecordedEpisode; the old name goes"):
        assert dataset.Episode is RecordedEpisode
    with pytest.raises(AttributeError, match="'nonsense'"):
        dataset.nonsense  # noqa: B018


def test_pictures_must_be_pictures():
    with pytest.raises(FrameError, match="no axis of 3"):
        RecordedEpisode("a", ("open",), {"front": np.zeros((4, 6, 5, 4), np.uint8)}, 3)


def test_provenance_survives_json():
    labeller = Labeller(PixelModel(), RewardSpec("level", every=2))
    provenance = labeller.provenance(MemoryDataset({"a": record(2, 0)}))
    stored = json.loads(json.dumps(provenance.to_dict()))
    assert Provenance.from_dict(stored) == provenance
    assert provenance.spec == labeller.spec
    with pytest.raises(ValueError, match="this release reads"):
        Provenance.from_dict(stored | {"mood": "good"})


def test_a_fingerprint_tells_changes_of_files_keys_and_facts(tmp_path):
    path = tmp_path / "file"
    path.write_text("x")
    os.utime(path, ns=(0, 0))
    before = fingerprint(["a", "b"], [path], 1)
    assert fingerprint(["a", "b"], [path], 1) == before
    assert fingerprint(["ab"], [path], 1) != before
    assert fingerprint(["a", "b"], [path], 2) != before
    os.utime(path, ns=(0, 1))
    assert fingerprint(["a", "b"], [path], 1) != before


def test_outputs_are_named_after_their_dataset(tmp_path):
    (tmp_path / "data.v2").mkdir()
    assert default_output(tmp_path / "data.v2").name == "data.v2-robometer"
    assert default_output(tmp_path / "buffer.pkl").name == "buffer-robometer.pkl"
