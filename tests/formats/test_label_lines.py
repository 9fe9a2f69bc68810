"""Labels as JSON lines: what is written reads back exactly, and what is no such file is named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robometer_rl.data.reading import SourceError
from robometer_rl.formats.dataset import EpisodeLabels, Labels
from robometer_rl.formats.label_lines import LabelLinesWriter, default_lines, read_label_lines
from robometer_rl.relabeling.engine import Labeller, label_dataset
from robometer_rl.relabeling.returns import Horizon
from tests.fixed_models import PixelModel
from tests.relabeling.episodes import TASK, MemoryDataset, record

ARRAYS = ("progress", "success", "rewards", "returns", "advantages", "success_detected", "imputed")


def write(path: Path, has_last_frame: bool = True) -> Labels:
    episodes = {f"Schublade {number}": record(number + 2, number) for number in range(4)}
    dataset = MemoryDataset(episodes, broken=frozenset({"Schublade 2"}), has_last_frame=has_last_frame)
    labels = label_dataset(dataset, Labeller(PixelModel(), horizon=Horizon(0.9, 2)))
    writer = LabelLinesWriter(dataset, path)
    writer.check()
    assert writer.written() is None
    writer.write(labels)
    assert writer.written() == labels.provenance
    return labels


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def same(one: EpisodeLabels, other: EpisodeLabels) -> bool:
    pairs = [(getattr(one, name), getattr(other, name)) for name in ARRAYS]
    return one.key == other.key and all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


@pytest.mark.parametrize("has_last_frame", [True, False])
def test_labels_read_back_to_the_last_bit(tmp_path: Path, has_last_frame: bool) -> None:
    labels = write(tmp_path / "labels.jsonl", has_last_frame)
    found = read_label_lines(tmp_path / "labels.jsonl")
    assert list(found.episodes) == list(labels.episodes)
    assert all(same(found.episodes[key], entry) for key, entry in labels.episodes.items())
    assert (found.skipped, found.provenance) == (labels.skipped, labels.provenance)


def test_a_line_is_an_episode_with_all_fields(tmp_path: Path) -> None:
    labels = write(tmp_path / "labels.jsonl")
    records = lines(tmp_path / "labels.jsonl")
    assert {tuple(each) for each in records} == {("episode", "tasks", *ARRAYS, "skipped", "provenance")}
    assert [each["episode"] for each in records] == [*labels.episodes, *(entry.name for entry in labels.skipped)]
    first = records[0]
    assert first["tasks"] == [TASK]
    assert (len(first["progress"]), len(first["rewards"]), len(first["advantages"])) == (3, 2, 2)
    assert records[-1]["skipped"] == "a hole in the file"
    assert {records[-1][name] for name in ("tasks", *ARRAYS)} == {None}
    assert first["provenance"] == labels.provenance.to_dict()


def test_names_that_are_no_utf_8_read_back(tmp_path: Path) -> None:
    dataset = MemoryDataset({"caf\udce9 – 引き出し": record(2, 0)})
    labels = label_dataset(dataset, Labeller(PixelModel()))
    LabelLinesWriter(dataset, tmp_path / "labels.jsonl").write(labels)
    assert list(read_label_lines(tmp_path / "labels.jsonl").episodes) == list(labels.episodes)


def test_equal_labels_give_equal_bytes(tmp_path: Path) -> None:
    write(tmp_path / "one.jsonl")
    write(tmp_path / "two.jsonl")
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    with pytest.raises(FileExistsError):
        LabelLinesWriter(MemoryDataset({"a": record(2, 0)}), tmp_path / "one.jsonl").check()


def test_success_that_no_model_said_is_null(tmp_path: Path) -> None:
    labels = write(tmp_path / "labels.jsonl")
    for entry in labels.episodes.values():
        entry.success[:] = np.nan
    dataset = MemoryDataset({key: record(2, 0) for key in labels.episodes})
    LabelLinesWriter(dataset, tmp_path / "none.jsonl").write(labels)
    assert {line["success"] for line in lines(tmp_path / "none.jsonl")} == {None}
    found = read_label_lines(tmp_path / "none.jsonl")
    assert not any(entry.has_success for entry in found.episodes.values())
    assert all(same(found.episodes[key], entry) for key, entry in labels.episodes.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"progress": None}, "line 2: the field 'progress' is null, and the episode is not skipped"),
        ({"progress": [0.5]}, "line 2: its labels have the shapes"),
        ({"imputed": [0, 0, 1]}, "'imputed' is [0, 0, 1]; expected a list of true and false"),
        ({"rewards": ["1", 2, 3]}, "expected a list of numbers"),
        ({"episode": "Schublade 0"}, "line 2: the episode 'Schublade 0' has been on a line before it"),
        ({"provenance": {}}, "line 2: its labels were made in another way"),
        ({"notes": 1}, "unknown field 'notes'"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "labels.jsonl"
    write(path)
    records = lines(path)
    records[1] |= change
    path.write_text("".join(json.dumps(each) + "\n" for each in records), "utf-8")
    with pytest.raises(SourceError, match=re.escape(message)):
        read_label_lines(path)


def test_what_is_no_file_of_labels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    for content, message in ((b"", "has no lines"), (b"[1]", "expected a JSON object"), (b"\xff", "not text in UTF-8")):
        path.write_bytes(content)
        with pytest.raises(SourceError, match=message):
            read_label_lines(path)
    assert LabelLinesWriter(MemoryDataset({"a": record(2, 0)}), path).written() is None


def test_lines_lie_beside_the_dataset(tmp_path: Path) -> None:
    (tmp_path / "data.v2").mkdir()
    assert default_lines(tmp_path / "data.v2") == tmp_path / "data.v2-robometer.jsonl"
    assert default_lines(tmp_path / "demo.hdf5") == tmp_path / "demo-robometer.jsonl"
