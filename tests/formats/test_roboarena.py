"""RoboArena's sessions as its authors publish them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from robometer_rl.cli import main
from robometer_rl.data.reading import SourceError
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.formats.roboarena import RoboArenaConfig, read_roboarena
from robometer_rl.video import write_video

POLICIES = {"A": ("pi0_droid", 1.0, ("left", "right", "wrist")), "B": ("paligemma_fast", 0.25, ("right",))}


def record(root: Path, session: str = "0a1b") -> Path:
    """A session in which two policies were compared."""
    folder = root / "evaluation_sessions" / session
    metadata = {
        "session_creation_timestamp": "2025_06_01_12_00_00",
        "evaluator_name": "somebody",
        "university": "a university",
        "language_instruction": "put the pen into the cup",
        "preference": "A",
        "policies": {},
    }
    for policy, (name, graded, cameras) in POLICIES.items():
        place = folder / f"{policy}_{name}"
        place.mkdir(parents=True)
        metadata["policies"][policy] = {"policy_name": name, "partial_success": graded, "duration": 12.5}
        for number, camera in enumerate(cameras):
            frames = [np.full((32, 32, 3), 40 * number + 10 * step, np.uint8) for step in range(6)]
            write_video(place / f"2025_06_01_12_00_00_{camera}.mp4", frames, fps=10)
    (folder / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    return folder


def read(path: Path, **options: Any) -> list[Any]:
    """Trajectories and `Unreadable`, whose fields a test looks into: where it is the other one, the test fails."""
    return list(read_roboarena(RoboArenaConfig(path, **options)))


@pytest.mark.parametrize("place", [".", "evaluation_sessions", "evaluation_sessions/0a1b"])
def test_the_cameras_at_the_sides_are_read_with_the_grades(tmp_path: Path, place: str) -> None:
    record(tmp_path)
    found = read(tmp_path / place)
    assert [each.id for each in found] == [
        "roboarena-0a1b-A_pi0_droid-left",
        "roboarena-0a1b-A_pi0_droid-right",
        "roboarena-0a1b-B_paligemma_fast-right",
    ]
    assert [(each.quality_label, each.partial_success, each.skill) for each in found] == [
        ("successful", 1.0, "pi0_droid"),
        ("successful", 1.0, "pi0_droid"),
        ("failure", 0.25, "paligemma_fast"),
    ]
    assert {(each.task, each.data_source, each.success) for each in found} == {
        ("put the pen into the cup", "roboarena", None)
    }
    assert found[1].frames[:].mean(axis=(1, 2, 3)) == pytest.approx([40, 50, 60, 70, 80, 90], abs=4)
    assert found[0].metadata == {"session": "0a1b", "camera": "left", "fps": 10.0}
    assert found[0].source == "0a1b/A_pi0_droid"


def test_cameras_may_be_named_or_tiled(tmp_path: Path) -> None:
    record(tmp_path)
    found = read(tmp_path, camera=("wrist",))
    assert found[0].frames[:1].mean() == pytest.approx(80, abs=4)
    assert found[1].reason == "it has no camera 'wrist'; it has right"
    with pytest.raises(SourceError, match="a tiled picture needs several cameras"):
        read(tmp_path, tile=True)
    pytest.importorskip("cv2")
    tiled, missing = read(tmp_path, camera=("left", "wrist"), tile=True)
    assert (tiled.tiled, tiled.frames.shape) == (True, (6, 48, 32, 3))
    assert "no camera 'left'" in missing.reason


def test_what_the_user_states_wins(tmp_path: Path) -> None:
    record(tmp_path)
    assert {
        (each.quality_label, each.data_source) for each in read(tmp_path, quality="suboptimal", data_source="mine")
    } == {("suboptimal", "mine")}


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ("policies: [", "not valid YAML"),
        ("language_instruction: open it", "expected language_instruction and policies"),
        ("language_instruction: open it\npolicies: {A: {policy_name: p}}", "expected policy_name and partial_success"),
        ("language_instruction: x\npolicies: {A: {policy_name: ../../b, partial_success: 1}}", "leads out of"),
    ],
)
def test_a_damaged_session_is_listed_and_the_others_are_read(tmp_path: Path, metadata: str, reason: str) -> None:
    (record(tmp_path, "0") / "metadata.yaml").write_text(metadata)
    record(tmp_path, "1")
    first, *others = read(tmp_path)
    assert (first.name, reason in first.reason) == ("0", True), first
    assert len(others) == 3


def test_a_session_that_is_elsewhere_is_not_read(tmp_path: Path) -> None:
    record(tmp_path / "elsewhere")
    record(tmp_path / "data", "0")
    (tmp_path / "data" / "evaluation_sessions" / "1").symlink_to(
        tmp_path / "elsewhere" / "evaluation_sessions" / "0a1b"
    )
    *inside, outside = read(tmp_path / "data")
    assert len(inside) == 3
    assert "is a link to" in outside.reason


def test_episodes_without_videos_are_listed(tmp_path: Path) -> None:
    folder = record(tmp_path)
    for video in folder.glob("B_*/*"):
        video.rename(video.with_name("x_wrist.mp4"))
    assert read(tmp_path)[2].reason == "it has no video of left or right; it has wrist"
    with pytest.raises(SourceError, match=r"holds no evaluation_sessions/SESSION/metadata\.yaml"):
        read(tmp_path / "nowhere")


def test_grades_outside_their_range_are_listed(tmp_path: Path) -> None:
    path = record(tmp_path) / "metadata.yaml"
    path.write_text(path.read_text().replace("partial_success: 0.25", "partial_success: 25"))
    assert "partial success 25.0; expected a value in [0, 1]" in read(tmp_path)[2].reason


def test_it_is_imported_by_its_name_and_videos_may_stay(tmp_path: Path) -> None:
    record(tmp_path / "dump")
    words = ["data", "import", "roboarena", str(tmp_path / "dump"), str(tmp_path / "store"), "--keep-videos"]
    assert main(words) == 0
    assert len(TrajectoryStore.open(tmp_path / "store")) == 3
    assert len(list((tmp_path / "store" / "videos").iterdir())) == 2, "of three videos, two have the same content"
