from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from robometer_rl.relabeling.engine import Labeller, label_dataset
from robometer_rl.relabeling.report import disputed, write_report
from robometer_rl.rewards import RewardSpec
from tests.fixed_models import BrightnessModel
from tests.relabeling.episodes import MemoryDataset, Recorded


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
def page(tmp_path):
    data = MemoryDataset(EPISODES, broken=frozenset({"middling"}))
    write_report(tmp_path / "page.html", data, label_dataset(data, LABELLER))
    return (tmp_path / "page.html").read_text()


def section(page: str, title: str) -> str:
    return page.split(f"<h2>{title}</h2>")[1].split("<h2>")[0]


def test_episodes_whose_predicted_success_is_not_their_label_are_found():
    data = MemoryDataset(EPISODES)
    assert disputed(data, label_dataset(data, LABELLER)) == ["flattered", "overlooked"]


def test_the_page_shows_what_somebody_should_look_at(page):
    assert "6 episodes with 36 steps" in page
    assert section(page, "Best episodes").count("<figure") == 3
    assert section(page, "Worst episodes").count("<figure") == 3
    dispute = section(page, "Success in dispute")
    assert "2 episodes end otherwise" in dispute
    assert [name in dispute for name in ("flattered", "overlooked", "honest")] == [True, True, False]
    assert "a hole in the file" in section(page, "Skipped episodes")
    assert "brightness" in section(page, "How this was made")


def test_the_page_is_one_file_whose_pictures_can_be_read(page):
    pictures = re.findall(r"src='data:image/png;base64,([^']+)'", page)
    assert len(pictures) == page.count("<img")
    sizes = [Image.open(io.BytesIO(base64.b64decode(picture))).size for picture in pictures]
    assert (6 * 144, 96) in sizes
    assert "<script" not in page


def test_a_dataset_of_one_episode_without_labels_has_a_page(tmp_path):
    data = MemoryDataset({"<only>": replace(EPISODES["unsaid"])})
    write_report(tmp_path / "page.html", data, label_dataset(data, LABELLER))
    page = (tmp_path / "page.html").read_text()
    assert "Worst episodes" not in page
    assert "does not say which episodes succeeded" in page
