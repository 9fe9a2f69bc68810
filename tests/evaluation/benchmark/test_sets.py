"""Published data in the layouts in which it is published, from where it lies to the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robometer_rl.cli import main
from robometer_rl.data.reading import SourceError
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.evaluation.benchmark.definitions import benchmark
from robometer_rl.evaluation.benchmark.sets import benchmark_sets, manifest_of_episodes
from robometer_rl.formats.opening import open_episodes
from robometer_rl.formats.rbm.export import RbmExportConfig, export_rbm
from robometer_rl.video import write_video
from tests.data.episodes import make_episodes_of_two_tasks

SETS = {"usc_trossen_rfm": "usc_trossen", "usc_xarm_policy_ranking": "usc_xarm_policy_ranking"}


def of_real_robots() -> list[Trajectory]:
    """As such data is: no state, no success by frame; a person's hand among them."""
    made = [replace(each, success=None, state=None, steps=None, skill=None) for each in make_episodes_of_two_tasks(2)]
    worse = [replace(each, id=f"{each.id}-worse", quality_label="failure") for each in made[:1] + made[4:5]]
    return [*made, *worse, replace(made[0], id="hand", is_robot=False)]


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the sets of RBM-EVAL-OOD, as their repositories are laid out."""
    pytest.importorskip("pyarrow", reason="needs the extra 'data'")
    folder = tmp_path_factory.mktemp("published")
    store = TrajectoryStore.create(folder / "store")
    for each in of_real_robots():
        store.append(each)
    for repository, subset in SETS.items():
        export_rbm(RbmExportConfig(folder / "store", folder / "data" / repository, subset))
    return folder / "data"


@pytest.fixture
def roboreward(tmp_path: Path) -> Path:
    """Graded videos, as RoboReward is laid out."""
    folder = tmp_path / "RoboReward"
    for split in ("train", "test"):
        (folder / split / "bridge").mkdir(parents=True)
        lines = []
        for grade in (1, 3, 5):
            name = f"bridge/{grade}.mp4"
            frames = np.linspace(0, 50 * grade, 8).astype(np.uint8)[:, None, None, None]
            write_video(folder / split / name, np.broadcast_to(frames, (8, 32, 32, 3)).copy(), fps=5)
            lines.append(json.dumps({"file_name": name, "task": "put the pot in the sink", "reward": grade}) + "\n")
        (folder / split / "metadata.jsonl").write_text("".join(lines))
    return folder


def results(output: Path) -> dict[str, Any]:
    return json.loads((output / "benchmark.json").read_text())


def test_sets_of_a_group_are_judged_one_by_one_and_those_that_are_missing_are_said(
    repositories: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sets = benchmark_sets(benchmark("rbm-eval-ood"), [f"rbm:{repositories}"], tmp_path)
    assert [each.names[0].partition("_")[0] for each in sets] == ["ykorkmaz", "aliangdw"]
    assert [len(each.episodes) for each in sets] == [10, 10], "of robots"
    assert "4 sets of rbm-eval-ood are not there" in caplog.text
    (limited, _) = benchmark_sets(benchmark("rbm-eval-ood"), [f"rbm:{repositories}"], tmp_path, limit=1)
    assert {each.task for each in limited.episodes} == {"pull the rope"}


def test_the_command_holds_a_model_against_what_was_published(repositories: Path, tmp_path: Path) -> None:
    words = ["benchmark", "rbm-eval-ood", "--model", "clock", "--model", "monotone", "--data", f"rbm:{repositories}"]
    assert main([*words, "--output", str(tmp_path)]) == 0
    found = results(tmp_path)
    assert [each["set"] for each in found["sets"]] == ["mean", "usc_trossen", "usc_xarm"]
    assert list(found["sets"][1]["evaluations"]) == ["preference", "ranking", "alignment"]
    rows = found["sets"][0]["evaluations"]["alignment"]["rows"]
    assert [row["name"] for row in rows] == ["clock", "monotone"]
    assert rows[0]["corrected"]["voc_pearson_time"]["value"] == pytest.approx(1.0)
    page = (tmp_path / "benchmark.md").read_text()
    assert "robometer/Robometer-4B: project site, camera-ready" in page
    assert "| 0.940 |" in page


def test_nothing_of_a_group_is_an_error_that_says_how_to_get_it(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra 'data'")
    with pytest.raises(SourceError, match=r"no set of the benchmark rbm-eval-id is there: .*data download rbm-1m-id"):
        benchmark_sets(benchmark("rbm-eval-id"), [f"rbm:{tmp_path}"], tmp_path)


def test_grades_are_judged_by_their_mean_absolute_error(roboreward: Path, tmp_path: Path) -> None:
    words = ["benchmark", "roborewardbench", "--model", "constant", "--data", f"roboreward:{roboreward}"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    (judged,) = results(tmp_path / "out")["sets"]
    assert judged["set"] == "roborewardbench"
    assert judged["episodes"] == {"failure": 2, "successful": 1}, "of the split test"
    (row,) = judged["evaluations"]["alignment"]["rows"]
    # Half is the level 3 of 5: two off from 1, right for 3, two off from 5.
    assert row["corrected"]["level_error"]["value"] == pytest.approx(4 / 3)
    assert row["legacy"]["mae"] == pytest.approx(4 / 3)
    assert judged["evaluations"]["ranking"]["rows"][0]["corrected"]["ranking_accuracy"]["value"] == 0.5


@pytest.mark.parametrize("name", ["manirewardbench", "robofac"])
def test_a_store_is_a_set(name: str, tmp_path: Path) -> None:
    store = TrajectoryStore.create(tmp_path / "store")
    for each in of_real_robots():
        store.append(each)
    (made,) = benchmark_sets(benchmark(name), [str(tmp_path / "store")], tmp_path)
    assert made.names == (name,)
    assert len(made.episodes) == 10
    two = benchmark_sets(benchmark(name), [str(tmp_path / "store")] * 2, tmp_path)
    assert [each.names for each in two] == [(f"{name} {tmp_path / 'store'}",)] * 2


def test_data_that_is_not_wanted_or_missing_is_an_error_in_words(roboreward: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="records its own episodes; got the data somewhere"):
        benchmark_sets(benchmark("metaworld"), ["somewhere"], tmp_path)
    with pytest.raises(ValueError, match="the benchmark robofac needs its data"):
        benchmark_sets(benchmark("robofac"), [], tmp_path)
    (roboreward / "test" / "metadata.jsonl").unlink()
    with pytest.raises(ValueError, match=r"no episodes of robots of the split test, which .* roborewardbench"):
        benchmark_sets(benchmark("roborewardbench"), [f"roboreward:{roboreward}"], tmp_path)


def test_videos_are_read_where_they_lie(roboreward: Path) -> None:
    opened = open_episodes([f"roboreward:{roboreward}"], lambda each: each.split == "train")
    assert [each.partial_success for each in opened.trajectories] == [0.0, 0.5, 1.0]
    assert opened.held["test", "roboreward_bridge"] == 3


def test_a_manifest_of_episodes_does_not_go_by_their_order() -> None:
    episodes = make_episodes_of_two_tasks(2)
    assert manifest_of_episodes(episodes) == manifest_of_episodes(episodes[::-1])
    shorter = replace(episodes[0], frames=episodes[0].frames[:-1], success=None, state=None, steps=None)
    assert manifest_of_episodes(episodes) != manifest_of_episodes([shorter, *episodes[1:]])
