"""Makes the small LeRobot datasets that the tests read, with the lerobot package itself.

lerobot cannot live in this project's environment (it pins older releases of torch, av and the Hub client), so this
runs in others, once, and what it writes is committed. From the root of the repository::

    python3.11 -m venv /tmp/lerobot && /tmp/lerobot/bin/pip install lerobot==0.4.4
    PYTHONPATH=tests/formats /tmp/lerobot/bin/python tools/make_lerobot_fixtures.py v30 images

    /tmp/lerobot/bin/pip install --no-deps --target /tmp/lerobot_old lerobot==0.3.3
    PYTHONPATH=tests/formats:/tmp/lerobot_old /tmp/lerobot/bin/python tools/make_lerobot_fixtures.py v21

Every picture says which frame of which episode it is (tests/formats/counters.py).
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import counters
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

FIXTURES = Path("tests/fixtures")
FPS = 10
TASKS = ("open the drawer", "close the drawer", "open the drawer", "push the button")
LENGTHS = (12, 9, 15, 7)
SUCCEEDS = (True, False, True, False)


def picture(dtype: str) -> dict[str, Any]:
    """The description of a camera."""
    return {
        "dtype": dtype,
        "shape": (counters.SIZE, counters.SIZE, 3),
        "names": ["height", "width", "channels"],
    }


def scalar(dtype: str) -> dict[str, Any]:
    """The description of one number per frame."""
    return {"dtype": dtype, "shape": (1,), "names": None}


def frame(episode: int, number: int, features: dict[str, Any]) -> dict[str, Any]:
    """One frame. A successful episode reaches its goal with the action before the last one."""
    last = LENGTHS[episode] - 1
    done = SUCCEEDS[episode] and number >= last - 1
    content = {
        "observation.images.top": counters.draw(episode, number, "top"),
        "observation.images.wrist": counters.draw(episode, number, "wrist"),
        "observation.state": np.array([episode, number], np.float32),
        "action": np.array([number / 10], np.float32),
        "next.success": np.array([done]),
        "next.reward": np.array([float(done)], np.float32),
        "next.done": np.array([number == last]),
    }
    return {name: content[name] for name in features}


def record(name: str, features: dict[str, Any], episodes: int, old: bool = False) -> None:
    """Writes ``episodes`` episodes to ``tests/fixtures/NAME``."""
    root = FIXTURES / name
    shutil.rmtree(root, ignore_errors=True)
    dataset = LeRobotDataset.create(
        repo_id=f"tests/{name}", fps=FPS, features=features, root=root, robot_type="counter", use_videos=True
    )
    if not old:
        # So small that episodes spread over several files.
        dataset.meta.update_chunk_settings(data_files_size_in_mb=0.0005, video_files_size_in_mb=0.004)
    for episode in range(episodes):
        for number in range(LENGTHS[episode]):
            content = frame(episode, number, features)
            if old:
                dataset.add_frame(content, task=TASKS[episode])
            else:
                dataset.add_frame({**content, "task": TASKS[episode]})
        dataset.save_episode()
    if not old:
        dataset.finalize()
    shutil.rmtree(root / "images", ignore_errors=True)
    made = {package: importlib.metadata.version(package) for package in ("lerobot", "datasets", "av")}
    (root / "made_with.json").write_text(json.dumps(made, indent=2) + "\n")


def main(names: list[str]) -> None:
    """Makes the data sets named."""
    rewards = {"next.success": scalar("bool"), "next.reward": scalar("float32"), "next.done": scalar("bool")}
    vectors = {
        "observation.state": {"dtype": "float32", "shape": (2,), "names": ["episode", "frame"]},
        "action": {"dtype": "float32", "shape": (1,), "names": ["value"]},
    }
    videos = {f"observation.images.{camera}": picture("video") for camera in ("top", "wrist")}
    if "v30" in names:
        record("lerobot_v30", {**videos, **vectors, **rewards}, episodes=4)
    if "images" in names:
        record("lerobot_v30_images", {"observation.images.top": picture("image"), **vectors}, episodes=2)
    if "v21" in names:
        top = {"observation.images.top": picture("video")}
        record("lerobot_v21", {**top, **vectors, "next.reward": scalar("float32")}, episodes=3, old=True)


if __name__ == "__main__":
    main(sys.argv[1:])
