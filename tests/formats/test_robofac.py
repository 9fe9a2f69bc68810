"""RoboFAC as it is published: videos in folders, questions and answers in JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robometer_rl.cli import main
from robometer_rl.data.reading import SourceError
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.formats.robofac import RoboFACConfig, read_robofac
from robometer_rl.video import write_video

ASKED = "<video>\nCan you identify what task the robot is doing in the provided video?"
VIDEOS = (
    "realworld_data/so100_insert_cylinder_error/videos/chunk-000/observation.images.above/episode_000000.mp4",
    "realworld_data/so100_place_cube_error/videos/chunk-000/observation.images.above/episode_000000.mp4",
    "simulation_data/failure_data/MicrowaveTask-fork/stack_error/09936392-adb5.mp4",
    "simulation_data/success_data/UprightStack-v1/view0/1f2e-77aa.mp4",
)


def answered(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "assistant", "value": answer}]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, video in enumerate(VIDEOS):
        path = tmp_path / "data" / video
        path.parent.mkdir(parents=True)
        write_video(path, [np.full((32, 32, 3), 50 * number + 5 * step, np.uint8) for step in range(5)], fps=10)
    video = "dataset_success_cleaned/MicrowaveTask-fork/stack_error/09936392-adb5.mp4"
    training = [
        {"id": "09936392-adb5", "video": video, "conversations": answered("<video>\nDid it fail?", "Yes.")},
        {"id": "09936392-adb5", "video": video, "conversations": answered(ASKED, "Put the fork into the cup")},
    ]
    (tmp_path / "data" / "training_qa.json").write_text(json.dumps(training))
    sim = {
        name: {
            "video": f"failures/UprightStack-v1/{name}.mp4",
            "task": "UprightStask",
            "annos": {"Failure detection": answered("?", "No."), "Task identification": answered("?", said)},
        }
        for name, said in (("a", "Stack the peg"), ("b", "Stack the peg"), ("c", "Raise the peg"))
    }
    real = {
        "0": {
            "video": VIDEOS[0].removeprefix("realworld_data/"),
            "task": "InsertCylinder",
            "annos": {"Task identification": answered("?", "Insert the cylinder into the shelf")},
        },
        "1": {
            "video": "x/y.mp4",
            "task": "PlaceCube",
            "annos": {"Task identification": answered("?", "Place the cube")},
        },
    }
    for folder, content in (("test_qa_sim", sim), ("test_qa_realworld", real)):
        (tmp_path / "data" / folder).mkdir()
        (tmp_path / "data" / folder / "annos_per_video_split1.json").write_text(json.dumps(content))
    return tmp_path / "data"


def read(path: Path, **options: Any) -> list[Any]:
    """Trajectories and `Unreadable`, whose fields a test looks into: where it is the other one, the test fails."""
    return list(read_robofac(RoboFACConfig(path, **options)))


def test_answers_say_the_task_and_folders_the_outcome(root: Path) -> None:
    found = read(root)
    assert [each.source for each in found] == list(VIDEOS)
    assert [each.task for each in found] == [
        "Insert the cylinder into the shelf",  # about this very video
        "Place the cube",  # about its task
        "Put the fork into the cup",
        "Stack the peg",  # what most say of its task
    ]
    assert [each.quality_label for each in found] == ["failure", "failure", "failure", "successful"]
    assert found[2].frames[:].mean(axis=(1, 2, 3)) == pytest.approx([100, 105, 110, 115, 120], abs=4)
    assert len({each.id for each in found}) == 4
    assert {(each.data_source, each.success, each.partial_success) for each in found} == {("robofac", None, None)}


def test_each_camera_has_a_trajectory_or_all_have_a_tiled_one(root: Path) -> None:
    other = VIDEOS[0].replace("images.above", "images.side")
    (root / other).parent.mkdir(parents=True)
    write_video(root / other, [np.full((32, 32, 3), 200 + step, np.uint8) for step in range(5)], fps=10)
    assert len(read(root)) == 5
    (found,) = read(root, camera="side")
    assert (found.source, found.task) == (other, "Insert the cylinder into the shelf")
    with pytest.raises(SourceError, match="has no camera 'wrist'; it has above, side, view0"):
        read(root, camera=("above", "wrist"))
    pytest.importorskip("cv2")
    with pytest.raises(SourceError, match="a tiled picture needs several cameras"):
        read(root, camera="above", tile=True)
    tiled, alone = read(root, camera=("side", "above"), tile=True)
    assert (tiled.tiled, tiled.quality_label, tiled.frames.shape) == (True, "failure", (5, 48, 32, 3))
    assert tiled.frames[0:1][0, :32].mean() > 190
    assert tiled.frames[0:1][0, 32:].mean() < 10
    assert tiled.id.endswith("episode_000000-side-above")
    assert alone.reason == "it has no camera 'side'; it has above"


def test_what_the_user_states_wins(root: Path) -> None:
    assert {(each.task, each.quality_label) for each in read(root, task="do it", quality="suboptimal")} == {
        ("do it", "suboptimal")
    }


def test_what_nobody_says_is_asked_for(root: Path) -> None:
    (root / "training_qa.json").unlink()
    moved = root / "simulation_data" / "SafeTask-v1" / "view0" / "unlisted.mp4"
    moved.parent.mkdir(parents=True)
    (root / VIDEOS[3]).rename(moved)
    found = read(root)
    assert "neither training_qa.json nor test_qa_sim" in found[2].reason
    assert "'quality'" in read(root, task="lock the safe")[2].reason
    assert read(root, task="lock the safe", quality="failure")[2].quality_label == "failure"


def test_damage_is_said(root: Path) -> None:
    (root / VIDEOS[0]).write_bytes(b"no video")
    broken, *others = read(root)
    assert broken.name == VIDEOS[0]
    assert len([each for each in others if hasattr(each, "frames")]) == 3
    (root / "training_qa.json").write_text("[{")
    with pytest.raises(SourceError, match=r"training_qa\.json cannot be read"):
        read(root)
    (root / "training_qa.json").write_text('"text"')
    with pytest.raises(SourceError, match="no list of questions"):
        read(root)
    with pytest.raises(SourceError, match="holds no videos in realworld_data or simulation_data"):
        read(root / "test_qa_sim")


def test_it_is_imported_by_its_name(root: Path, tmp_path: Path) -> None:
    assert main(["data", "import", "robofac", str(root), str(tmp_path / "store"), "--keep-videos"]) == 0
    assert len(TrajectoryStore.open(tmp_path / "store")) == 4
