"""info.json and tables of tasks as others write them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robometer_rl.data.reading import SourceError, Unreadable
from robometer_rl.formats.dataset import DatasetOptions
from robometer_rl.formats.lerobot.layout import LeRobotLayout
from robometer_rl.formats.lerobot.reader import LeRobotConfig, open_dataset, read_lerobot
from robometer_rl.relabeling.commands import relabel
from robometer_rl.relabeling.engine import Labeller
from tests.fixed_models import PixelModel
from tests.library import ROOT

FIXTURES = ROOT / "tests" / "fixtures"
TOP = "observation.images.top"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "lerobot_v30", tmp_path / "data"))


@pytest.mark.parametrize("names", [("task_index", "task"), ("task", "task_index"), ("instruction", "task_index")])
@pytest.mark.parametrize("beside", [{}, {"__index_level_0__": [4, 7, 9]}, {"count": [1, 2, 3]}, {"done": [True] * 3}])
def test_instructions_are_found_in_any_order_and_beside_anything(root, names, beside):
    before = dict(LeRobotLayout(root).tasks)
    values = {"task_index": list(before)} | {name: list(before.values()) for name in names if name != "task_index"}
    table = pa.table({**{name: values[name] for name in names}, **beside})
    pq.write_table(table, root / "meta/tasks.parquet")
    assert LeRobotLayout(root).tasks == before


def test_the_index_of_a_data_frame_and_a_column_task_come_before_other_texts(root):
    before = dict(LeRobotLayout(root).tasks)
    numbers, texts = list(before), list(before.values())
    for name in ("task", "__index_level_0__"):
        columns = {"category": ["a", "b", "a"], name: texts, "task_index": numbers}
        pq.write_table(pa.table(columns), root / "meta/tasks.parquet")
        assert LeRobotLayout(root).tasks == before


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"task_index": [0, 1], "a": ["x", "y"], "b": ["x", "y"]}, r"\['a', 'b'\] hold texts"),
        ({"task_index": [0, 1], "count": [3, 4]}, "none hold texts"),
        ({"task": ["x", "y"]}, r"columns \['task'\]; expected 'task_index'"),
        ({"task_index": ["0", "1"], "task": ["x", "y"]}, "whole number"),
        ({"task_index": [0, 0], "task": ["x", "y"]}, "two instructions of number 0"),
    ],
)
def test_tables_without_clear_instructions_are_named(root, columns, message):
    pq.write_table(pa.table(columns), root / "meta/tasks.parquet")
    with pytest.raises(SourceError, match=message):
        LeRobotLayout(root)


def test_tasks_of_version_2_may_have_other_fields(tmp_path):
    root = Path(shutil.copytree(FIXTURES / "lerobot_v21", tmp_path / "data"))
    before = dict(LeRobotLayout(root).tasks)
    lines = [{"category": 3, "instruction": text, "task_index": number} for number, text in before.items()]
    (root / "meta/tasks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert LeRobotLayout(root).tasks == before
    (root / "meta/tasks.jsonl").write_text("[1, 2]\n")
    with pytest.raises(SourceError, match="line 1 is"):
        LeRobotLayout(root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fps": "ten"}, "'fps' is 'ten'; expected a number"),
        ({"fps": 0}, "'fps' is 0"),
        ({"fps": True}, "'fps' is True"),
        ({"fps": None}, "lacks fps"),
        ({"features": ["a"]}, "'features' is"),
        ({"features": {"a": 3}}, "the feature 'a' is 3"),
        ({"features": {"a": {"dtype": ["video"]}}}, "the feature 'a'"),
        ({"features": {"a": {"dtype": "video", "info": [1]}}}, "notes that are no object"),
        ({"data_path": 7}, "'data_path' is 7"),
        ({"video_path": None}, "lacks video_path"),
        ({"video_path": []}, "'video_path' is"),
        ({"splits": "train"}, "'splits' is 'train'"),
        ({"codebase_version": 3}, "the version 3"),
        ({"codebase_version": ["v3.0"]}, "the version"),
    ],
)
def test_values_of_another_type_are_named(root, changes, message):
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(SourceError, match=message):
        LeRobotLayout(root)


@pytest.mark.parametrize("text", ["[]", "{", '{"codebase_version": NaN}', "\udc80"])
def test_info_that_is_no_description_is_named(root, text):
    (root / "meta/info.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SourceError, match=r"info\.json is not the description|the version"):
        LeRobotLayout(root)


def test_an_impossible_number_of_episodes_in_a_folder_is_named(tmp_path):
    root = Path(shutil.copytree(FIXTURES / "lerobot_v21", tmp_path / "data"))
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chunks_size": 0}))
    with pytest.raises(SourceError, match="'chunks_size' is 0"):
        LeRobotLayout(root)


def test_one_bad_row_of_the_table_of_episodes_is_one_bad_episode(root):
    (path,) = (root / "meta/episodes").glob("*/*.parquet")
    table = pq.read_table(path)
    column = f"videos/{TOP}/from_timestamp"
    values: list[Any] = table[column].to_pylist()
    values[1] = None
    pq.write_table(table.set_column(table.column_names.index(column), column, pa.array(values)), path)
    readings = list(read_lerobot(LeRobotConfig(root, camera=(TOP,), quality="successful")))
    assert [isinstance(each, Unreadable) for each in readings] == [False, True] + [False] * (len(values) - 2)
    assert "in row 1" in readings[1].reason
    dataset = open_dataset(DatasetOptions(root, (TOP,)))
    assert len(dataset) == len(values)
    with pytest.raises(SourceError, match="in row 1"):
        dataset.episode(dataset.keys[1])


def test_depth_is_refused_with_the_reason(root):
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    info["features"][TOP]["info"] = {"is_depth_map": True}
    path.write_text(json.dumps(info))
    with pytest.raises(SourceError, match=f"'{TOP}' cannot be shown: .*depth"):
        open_dataset(DatasetOptions(root, (TOP,)))
    with pytest.raises(SourceError, match=f"'{TOP}' cannot be shown: .*depth"):
        read_lerobot(LeRobotConfig(root, camera=(TOP,)))


def test_what_is_stated_wins(root):
    (first, *_) = read_lerobot(LeRobotConfig(root, task="wave", camera=(TOP,), orientation="flip", quality="failure"))
    (stored, *_) = read_lerobot(LeRobotConfig(root, camera=(TOP,)))
    assert (first.task, first.quality_label) == ("wave", "failure")
    assert first.success is None or not first.success.any()
    assert (first.frames[:] == stored.frames[:][:, ::-1]).all()
    # A reward that nobody was paid: nothing succeeded, whatever next.success says.
    assert {each.quality_label for each in read_lerobot(LeRobotConfig(root, camera=(TOP,), success_reward=1e9))} == {
        "failure"
    }


def test_of_a_labelled_copy_the_recorded_outcome_is_imported(root, tmp_path):
    dataset = open_dataset(DatasetOptions(root, (TOP,), ("open",)))
    relabel(dataset, Labeller(PixelModel()), dataset.writer("copy", tmp_path / "new"))
    before, after = (
        [(each.quality_label, each.success.tolist()) for each in read_lerobot(LeRobotConfig(place, camera=(TOP,)))]
        for place in (root, tmp_path / "new")
    )
    assert after == before
