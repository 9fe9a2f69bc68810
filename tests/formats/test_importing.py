import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robometer_rl.data.reading import SourceError, Unreadable
from robometer_rl.data.store import StoreError, TrajectoryStore
from robometer_rl.data.video_frames import VideoFrames
from robometer_rl.formats.commands import parse_data
from robometer_rl.formats.importing import (
    ImportOptions,
    LabelledReading,
    NothingImportedError,
    import_trajectories,
    unreadable_path,
)
from robometer_rl.video import write_video
from tests.data.runs import assert_same, trajectory

RUNS = [trajectory(name, seed=seed, source=f"demo.hdf5#{name}") for seed, name in enumerate("abc")]


class Undecodable:
    """Frames that turn out to be damaged when they are read."""

    shape = (5, 6, 7, 3)

    def __len__(self):
        return 5

    def __getitem__(self, index):
        raise OSError("the file ends early")


def test_a_data_set_becomes_a_sealed_store(tmp_path):
    report = import_trajectories(iter(RUNS), ImportOptions(tmp_path / "store"))
    assert (report.imported, report.present, report.unreadable) == (3, 0, [])
    store = TrajectoryStore.open(tmp_path / "store")
    for run in RUNS:
        assert_same(store[run.id], run)
    assert list((tmp_path / "store" / "rows").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_what_cannot_be_read_is_passed_by_counted_and_listed(tmp_path):
    bad = trajectory("d", frames=Undecodable(), source="demo.hdf5#d")
    reading = [RUNS[0], Unreadable("demo.hdf5#x", "no frames"), bad, RUNS[1], replace(RUNS[2], id="no/name")]
    report = import_trajectories(iter(reading), ImportOptions(tmp_path / "store"))
    assert (report.imported, len(report.unreadable)) == (2, 3)
    lines = [json.loads(line) for line in unreadable_path(tmp_path / "store").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["demo.hdf5#x", "demo.hdf5#d", "demo.hdf5#c"]
    for line, reason in zip(lines, ("no frames", "the file ends early", "cannot be a file name"), strict=True):
        assert reason in line["reason"]
    TrajectoryStore.open(tmp_path / "store").verify()

    import_trajectories(iter(RUNS), ImportOptions(tmp_path / "store"))
    assert not unreadable_path(tmp_path / "store").exists(), "a list of before is not left behind"


def label(episode, answer, **fields):
    line = {"data": "mine", "episode": episode, "task": RUNS[0].task, "frames": 5, "answer": answer, "annotator": "ann"}
    return json.dumps(line | fields) + "\n"


def test_labels_of_people_say_how_episodes_ended(tmp_path):
    labels = tmp_path / "labels.jsonl"
    labels.write_text(
        label("a", "failure", partial_success=0.4)
        + label("other name", "successful", success_frame=3, source="demo.hdf5#b")
        + label("a", "failure", data="yours")
        + label("c", "failure", frames=9)
        + label("absent", "failure")
        + label("twice", "failure")
        + label("twice", "successful", annotator="bob")
    )
    reading = LabelledReading(iter([*RUNS, trajectory("d", source=None)]), labels, "mine")
    report = import_trajectories(iter(reading), ImportOptions(tmp_path / "store"))
    assert (report.imported, [entry.reason for entry in report.unreadable]) == (
        3,
        ["it was labelled with 9 frames and has 5: import what was shown, with all its frames"],
    )
    store = TrajectoryStore.open(tmp_path / "store")
    assert (store["a"].quality_label, store["a"].partial_success) == ("failure", 0.4)
    assert store["b"].success.tolist() == [False, False, False, True, True]
    assert store["b"].metadata["labelled_by"] == ["ann"]
    assert_same(store["d"], trajectory("d", source=None))
    assert str(reading) == (
        "2 episodes are as people labelled them, 1 as the data set has them; people disagree on 1 (twice); "
        "1 labels are of episodes that are not in the data set"
    )


def test_the_command_takes_labels_of_the_data_set_that_it_reads(tmp_path, capsys):
    """Videos of which only the task is known, some of them labelled, become a store of those that are."""
    folder = tmp_path / "mine"
    folder.mkdir()
    lines = []
    for number in range(3):
        write_video(folder / f"{number}.mp4", np.full((6, 32, 32, 3), 80 * number, np.uint8), fps=10)
        lines.append(json.dumps({"video": f"{number}.mp4", "task": "push"}) + "\n")
    (folder / "videos.jsonl").write_text("".join(lines))
    clip = {"task": "push", "frames": 6}
    (tmp_path / "labels.jsonl").write_text(
        label("0.mp4", "successful", success_frame=4, source="0.mp4", **clip)
        + label("1.mp4", "suboptimal", partial_success=0.5, source="1.mp4", **clip)
    )
    words = ["import", "videos", str(folder), str(tmp_path / "store"), "--labels", str(tmp_path / "labels.jsonl")]
    parse_data(words, "robometer-rl data")()
    said = capsys.readouterr().out
    assert "2 imported, 0 already there, 1 unreadable" in said
    assert "2 episodes are as people labelled them, 0 as the data set has them" in said
    (passed_over,) = unreadable_path(tmp_path / "store").read_text().splitlines()
    assert "'quality' is missing; expected one of successful, suboptimal, failure, or labels" in passed_over
    one, other = TrajectoryStore.open(tmp_path / "store")
    assert (one.quality_label, one.success_index) == ("successful", 4)
    assert (other.quality_label, other.success, other.partial_success) == ("suboptimal", None, 0.5)
    parse_data(words, "robometer-rl data")()
    assert "what was there already stays as it was" in capsys.readouterr().out
    words[2] = str(tmp_path / "store")
    with pytest.raises(ValueError, match="is about mine, and not about store"):
        parse_data(["import", "store", *words[2:3], str(tmp_path / "new"), *words[4:]], "robometer-rl data")()


def test_a_folder_of_videos_needs_nothing_but_a_task_and_labels(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for number in range(2):
        write_video(folder / f"{number}.mp4", np.full((6, 32, 32, 3), 80 * number, np.uint8), fps=10)
    said = {"task": "push", "frames": 6}
    (tmp_path / "labels.jsonl").write_text(
        label("0.mp4", "successful", success_frame=2, source="0.mp4", **said)
        + label("1.mp4", "failure", source="1.mp4", **said)
    )
    words = ["import", "videos", str(folder), str(tmp_path / "store"), "--task", "push"]
    with pytest.raises(NothingImportedError, match="'quality' is missing"):
        parse_data(words, "robometer-rl data")()
    parse_data([*words, "--labels", str(tmp_path / "labels.jsonl")], "robometer-rl data")()
    assert [each.quality_label for each in TrajectoryStore.open(tmp_path / "store")] == ["successful", "failure"]
    (folder / "videos.jsonl").write_text('{"video": "0.mp4", "task": "pull"}')
    with pytest.raises(SourceError, match="leave out the option 'task'"):
        parse_data(words, "robometer-rl data")()


def test_an_import_goes_on_where_it_was(tmp_path):
    options = ImportOptions(tmp_path / "store")
    import_trajectories(iter(RUNS[:2]), options)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "store" / "frames").iterdir()}
    report = import_trajectories(iter(RUNS), options)
    assert (report.imported, report.present) == (1, 2)
    assert all(path.stat().st_mtime_ns == modified for path, modified in written.items())
    again = import_trajectories(iter(RUNS), options)
    assert (again.imported, again.present) == (0, 3)


def test_an_id_means_one_episode(tmp_path):
    options = ImportOptions(tmp_path / "store")
    report = import_trajectories(iter([RUNS[0], RUNS[0]]), options)
    assert [entry.reason for entry in report.unreadable] == ["another episode of this data set has the id 'a', too"]
    other = import_trajectories(iter([replace(RUNS[0], source="other.hdf5#a"), RUNS[1]]), options)
    assert [entry.reason for entry in other.unreadable] == [
        "the store holds another trajectory 'a': source 'demo.hdf5#a' there and 'other.hdf5#a' here"
    ]


@pytest.mark.parametrize(
    ("changes", "options", "difference"),
    [
        ({"quality_label": "failure"}, {}, "quality_label 'suboptimal' there and 'failure' here"),
        ({"num_frames": 6, "success": None}, {}, "shape [5, 6, 7, 3] there and [6, 6, 7, 3] here"),
        ({}, {"every": 2}, "shape [5, 6, 7, 3] there and [3, 6, 7, 3] here"),
    ],
)
def test_what_stands_in_the_store_otherwise_is_not_taken_for_the_same(tmp_path, changes, options, difference):
    """A label that was set right, another folder with files of the same names, other options."""
    import_trajectories(iter([trajectory("a")]), ImportOptions(tmp_path / "store"))
    changed = [trajectory("a", **changes), trajectory("b")]
    report = import_trajectories(iter(changed), ImportOptions(tmp_path / "store", **options))
    assert (report.imported, report.present) == (1, 0)
    assert [entry.reason for entry in report.unreadable] == [f"the store holds another trajectory 'a': {difference}"]


def test_the_list_of_a_store_in_the_working_directory_lies_in_it(tmp_path, monkeypatch):
    (tmp_path / "store").mkdir()
    monkeypatch.chdir(tmp_path / "store")
    import_trajectories(iter([RUNS[0], Unreadable("x", "no frames")]), ImportOptions(Path()))
    assert json.loads((tmp_path / "store" / "unreadable.jsonl").read_text())["name"] == "x"
    assert TrajectoryStore.open(tmp_path / "store").ids() == ("a",)


def test_a_second_import_waits_for_its_turn(tmp_path):
    options = ImportOptions(tmp_path / "store")

    def reading():
        yield RUNS[0]
        with pytest.raises(StoreError, match=r"an import into .*store is running"):
            import_trajectories(iter(RUNS), options)
        yield RUNS[1]

    assert import_trajectories(reading(), options).imported == 2
    assert import_trajectories(iter(RUNS), options).imported == 1


def test_a_video_that_disappears_is_unreadable(tmp_path):
    write_video(tmp_path / "a.mp4", [np.full((16, 16, 3), 9 * step, np.uint8) for step in range(5)], fps=10)
    run = trajectory("a", num_frames=5, frames=VideoFrames(tmp_path / "a.mp4"), success=None)
    (tmp_path / "a.mp4").unlink()
    report = import_trajectories(iter([run, RUNS[1]]), ImportOptions(tmp_path / "store", keep_videos=True))
    assert (report.imported, len(report.unreadable)) == (1, 1)
    assert "a.mp4 cannot be read" in report.unreadable[0].reason


def test_frames_are_thinned_on_the_way(tmp_path):
    long = trajectory("long", num_frames=20)
    import_trajectories(iter([long]), ImportOptions(tmp_path / "store", every=2, max_frames=4))
    stored = TrajectoryStore.open(tmp_path / "store")["long"]
    np.testing.assert_array_equal(stored.frames[:], np.asarray(long.frames)[[0, 6, 14, 19]])
    assert stored.steps.tolist() == [0, 18, 42, 57]


@pytest.mark.parametrize("reading", [[], [Unreadable("demo.hdf5#x", "no frames")]])
def test_nothing_imported_is_an_error(tmp_path, reading):
    with pytest.raises(NothingImportedError, match=r"the data set is empty|demo\.hdf5#x, because no frames"):
        import_trajectories(iter(reading), ImportOptions(tmp_path / "store"))


def test_options_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ValueError, match="every must be a positive integer"):
        ImportOptions(tmp_path, every=0)
    with pytest.raises(ValueError, match="max_frames must be at least 2"):
        ImportOptions(tmp_path, max_frames=1)


MAIN = """
import itertools, sys, time
from pathlib import Path
from robometer_rl.formats.importing import ImportOptions, import_trajectories
from robometer_rl.data.reading import Unreadable
from tests.data.runs import trajectory

def reading():
    yield Unreadable("x", "no frames")
    for number in itertools.count():
        yield trajectory(f"{number:03d}")
        print(number, flush=True)
        time.sleep(0.05)

import_trajectories(reading(), ImportOptions(Path(sys.argv[1])))
"""


def test_an_interrupt_leaves_a_store_and_a_list(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", MAIN, str(tmp_path / "store")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for _ in range(3):
            assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
    assert process.returncode != 0
    store = TrajectoryStore.open(tmp_path / "store")
    store.verify()
    assert len(store) >= 3
    assert json.loads(unreadable_path(tmp_path / "store").read_text()) == {"name": "x", "reason": "no frames"}
