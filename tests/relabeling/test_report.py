from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robometer_rl.relabeling.engine import Labeller, label_dataset
from robometer_rl.relabeling.report import write_report
from robometer_rl.rewards import RewardSpec
from robometer_rl.video import read_recording
from tests.fixed_models import BrightnessModel
from tests.relabeling.episodes import MEMORY, MemoryDataset, Recorded
from tests.report.test_replay import Elements


def brightening(last: float, success: bool | None, steps: int = 6) -> Recorded:
    """From dark to a brightness, which is what the model takes for progress."""
    levels = (np.linspace(0.0, last, steps + 1) * 255).astype(np.uint8)
    return Recorded({"front": np.tile(levels[:, None, None, None], (1, 16, 24, 3))}, np.zeros(steps), True, success)


EPISODES = {
    "honest & good": brightening(1.0, True),
    "flattered": brightening(0.95, False),
    "overlooked": brightening(0.3, True),
    "honest and bad": brightening(0.1, False),
    "unsaid": brightening(0.5, None),
    "worst": brightening(0.0, None),
    "middling": brightening(0.6, None),
}
LABELLER = Labeller(BrightnessModel(), RewardSpec("delta", success_threshold=0.5, patience=1))


@pytest.fixture
def page(tmp_path: Path) -> str:
    data = MemoryDataset(EPISODES, broken=frozenset({"middling"}))
    return write_report(tmp_path, data, label_dataset(data, LABELLER)).read_text()


def replays(page: str) -> dict[str, dict]:
    sections = Elements(page).all("section")
    return {str(section["data-key"]): json.loads(section["data-replay"] or "") for section in sections}


def test_what_disagrees_most_with_what_was_recorded_comes_first(page: str) -> None:
    shown = replays(page)
    assert list(shown) == ["overlooked", "flattered", "honest and bad", "honest & good", "worst", "unsaid"]
    assert "6 episodes with 36 steps" in page
    assert "2 of 4 episodes end otherwise than the dataset says" in page
    assert "a hole in the file" in page
    assert "<dt>model_id</dt><dd>brightness</dd>" in page


def test_curves_are_the_labels_at_the_frames_of_the_video(page: str, tmp_path: Path) -> None:
    shown = replays(page)["flattered"]
    (series,) = shown["series"]
    levels = np.linspace(0, 0.95, 7)
    assert series["progress"] == pytest.approx(levels, abs=0.01)
    assert series["success"] == pytest.approx(levels**2, abs=0.02)
    assert series["rewards"] == pytest.approx([0, *np.diff(levels)], abs=0.01)
    assert (series["threshold"], series["fires"], series["steps"]) == (0.5, 5, list(range(7)))
    assert series["shown"][6][:7] == list(range(7))
    (video,) = shown["videos"]
    frames = read_recording(tmp_path / video["address"]).frames
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)) / 255, levels, atol=0.02)


def test_every_camera_has_its_video_unless_the_model_saw_them_in_one_picture(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    frames = np.zeros((5, 64, 64, 3), np.uint8)
    data = MemoryDataset({"one": Recorded({"front": frames, "wrist": frames}, np.zeros(4))})
    labels = label_dataset(data, LABELLER)
    names = [each["name"] for each in replays(write_report(tmp_path, data, labels).read_text())["one"]["videos"]]
    assert names == ["front", "wrist"]
    tiled = replace(data, options=replace(MEMORY, tile=True))
    names = [each["name"] for each in replays(write_report(tmp_path, tiled, labels).read_text())["one"]["videos"]]
    assert names == ["tiles(front, wrist)"]


def test_a_last_step_whose_outcome_was_not_recorded_is_named_and_not_drawn(tmp_path: Path) -> None:
    data = MemoryDataset({"one": EPISODES["unsaid"]}, has_last_frame=False)
    labels = label_dataset(data, Labeller(BrightnessModel(), RewardSpec("level", every=2)))
    page = write_report(tmp_path, data, labels).read_text()
    (series,) = replays(page)["one"]["series"]
    assert series["steps"] == [0, 2, 4, 5]
    assert sum(series["rewards"]) == pytest.approx(labels.episodes["one"].rewards[:-1].sum(), abs=1e-3)
    assert f"its {labels.episodes['one'].rewards[-1]:.3f} is imputed and not drawn" in page


def test_histograms_can_be_read(page: str) -> None:
    pictures = re.findall(r"srcset='data:image/png;base64,([^' ]+) 2x'", page)
    assert len(pictures) == 3
    assert all(Image.open(io.BytesIO(base64.b64decode(picture))).width > 800 for picture in pictures)


def test_a_dataset_of_one_episode_without_labels_has_a_page(tmp_path: Path) -> None:
    data = MemoryDataset({"<only>": replace(EPISODES["unsaid"])})
    page = write_report(tmp_path, data, label_dataset(data, LABELLER)).read_text()
    assert list(replays(page)) == ["<only>"]
    assert "does not say which episodes succeeded" in page
