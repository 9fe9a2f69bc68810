"""A benchmark from episodes to pages: what is recorded, asked, shown and gone on with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robometer_rl.collecting.collect import EpisodeCounts
from robometer_rl.collecting.simulators import SKILLS
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.evaluation.benchmark.asking import MEAN, JudgedSet, ask_everybody, manifest, mean_of_sets
from robometer_rl.evaluation.benchmark.commands import BenchmarkConfig, run_models
from robometer_rl.evaluation.benchmark.definitions import Benchmark, PublishedNumber, Recordings, benchmark
from robometer_rl.evaluation.benchmark.sheets import sheets_of
from robometer_rl.evaluation.published.answers import answerers
from robometer_rl.evaluation.published.questions import Dataset, Drawing
from robometer_rl.frames import Clip
from robometer_rl.models.controls import BLIND
from robometer_rl.prediction import Prediction
from tests.data.episodes import make_episodes_of_two_tasks
from tests.evaluation.published.recorded import PixelReader, dataset
from tests.fixed_models import BrightnessModel

ASKED = Benchmark("small", "Small", "Two tasks.", {"ranking": Drawing(), "alignment": Drawing(prefixes=5)})
CONTROLS = ["frames shuffled", "one frame repeated", "wrong task", "second half not shown"]


class Comparing(BrightnessModel):
    """Brighter at the end is better; it counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        self.asked += len(clips)
        return super().predict(clips)

    def compare(self, pairs: Sequence[tuple[Clip, Clip]], both_orders: bool = False) -> np.ndarray:
        self.asked += len(pairs)
        last = [[clip.read([len(clip) - 1]).mean() for clip in pair] for pair in pairs]
        return np.array([float(one > other) for one, other in last], np.float32)


def episodes() -> Dataset:
    return Dataset(("made-up",), tuple(make_episodes_of_two_tasks(2)))


@pytest.fixture(scope="module")
def judged() -> JudgedSet:
    return ask_everybody(ASKED, episodes(), answerers([Comparing()], None, controls=True))


def test_a_simulator_is_recorded_and_everybody_is_in_every_table(tmp_path: Path) -> None:
    pytest.importorskip("metaworld", reason="needs the extra 'metaworld'")
    none = dict.fromkeys(SKILLS, 0)
    small = EpisodeCounts(**{**none, "expert": 1, "stop_halfway": 1, "random": 1})
    recordings = Recordings(("plate-slide", "drawer-close"), small, seed=5, size=32, frame_interval=10)
    asked = replace(benchmark("metaworld"), recordings={"metaworld": recordings})
    config = BenchmarkConfig("metaworld", ("mini",), limit=1, output=tmp_path, workers=1)
    models = [Comparing(), BLIND["clock"]("clock")]
    (made,) = run_models(config, asked, models)
    assert made.tasks == 1
    assert dict(made.episodes)["successful"] == 1
    everybody = ["brightness", "clock", *(f"brightness, {said}" for said in CONTROLS), "constant", "monotone"]
    assert list(made.measured) == everybody
    assert made.measured["clock"]["voc_spearman"].value == pytest.approx(1.0)
    assert list(made.verdicts) == ["brightness"]
    for kind in ("preference", "ranking", "alignment"):
        assert [row.name for row in made.judged[kind].rows] == everybody
    page = (tmp_path / "benchmark.md").read_text()
    assert page.index("Paid for nothing") < page.index("Pairs") < page.index("Order by") < page.index("Progress and")
    assert "A smoke run, limited to 1 of the tasks" in page
    results = json.loads((tmp_path / "benchmark.json").read_text())
    assert results["manifest"] == {"frozen": False, "sha256": manifest([made])}
    assert results["simulator"].keys() == {"metaworld", "mujoco"}
    assert "brightness, wrong task" in (tmp_path / "index.html").read_text()

    said = models[0].asked
    (again,) = run_models(config, asked, models)
    assert models[0].asked == said + made.tasks, "it goes on from what was answered; doubts are noted anew"
    assert again.as_dict() == made.as_dict()


def test_a_control_shows_what_a_number_is_worth(judged: JudgedSet) -> None:
    recorded, wrong = (judged.measured[name] for name in ("brightness", "brightness, wrong task"))
    # Brightness does not read: whatever it is asked, it says the same.
    assert recorded["final_progress_expert"].value == wrong["final_progress_expert"].value
    assert judged.measured["brightness, one frame repeated"]["voc_spearman"].count == 0
    assert recorded["wrong_task_progress"].count == 4
    assert wrong["wrong_task_progress"].count == 0, "the wrong task of a wrong task is not asked about"


def test_who_cannot_answer_is_left_out_by_name() -> None:
    asked = replace(ASKED, kinds={"preference": Drawing(), **ASKED.kinds})
    made = ask_everybody(asked, episodes(), answerers([BrightnessModel(), Comparing2()], None, controls=False))
    assert [row.name for row in made.judged["preference"].rows] == ["comparing"]
    assert "does not compare" in made.left_out["brightness, preference"]


class Comparing2(Comparing):
    """Of another name."""

    model_id = "comparing"


def test_what_a_set_is_not_about_is_left_out() -> None:
    only = Dataset(("experts",), tuple(each for each in episodes().episodes if each.skill == "expert"))
    made = ask_everybody(ASKED, only, answerers([Comparing()], None, controls=False))
    assert list(made.judged) == ["alignment"]
    assert "it needs tasks with episodes of different quality" in made.left_out["ranking"]


def test_sets_whose_success_nobody_recorded_have_no_numbers_of_frames() -> None:
    made = ask_everybody(ASKED, dataset("lab_one"), answerers([PixelReader()], None, controls=False))
    assert made.measured == {}
    assert sheets_of(ASKED, made, True, {})[0].title.startswith("Order by final progress")


def test_the_mean_counts_every_set_alike() -> None:
    asked = answerers([PixelReader()], None, controls=True)
    sets = [ask_everybody(ASKED, dataset(name), asked) for name in ("lab_one", "lab_two")]
    mean = mean_of_sets(sets)
    assert mean.name == MEAN
    for number, row in enumerate(mean.judged["ranking"].rows):
        of_sets = [each.judged["ranking"].rows[number] for each in sets]
        found = row.corrected["ranking_accuracy"]
        assert found.value == pytest.approx(np.mean([each.corrected["ranking_accuracy"].value for each in of_sets]))
        assert found.count == 2
        assert row.legacy["ranking_acc_last"] == pytest.approx(
            np.mean([each.legacy["ranking_acc_last"] for each in of_sets])
        )


def test_published_numbers_stand_beside_ours_and_say_who_published_them(judged: JudgedSet) -> None:
    number = PublishedNumber("tests/brightness", MEAN, "alignment", "pearson", 0.9, "somebody")
    other = replace(number, model="another", value=0.8)
    asked = replace(ASKED, published=(number, other))
    sheet = sheets_of(asked, judged, True, {"brightness": "tests/brightness"})[-1]
    assert sheet.columns[2:5] == ("published", "legacy", "corrected (95 %)")
    names = [row[0] for row in sheet.rows]
    (first,) = [place for place, name in enumerate(names) if name == "voc_pearson_time (pearson)"]
    after = next(place for place in range(first + 1, len(names)) if names[place])
    rows = {row[1]: row[2] for row in sheet.rows[first:after]}
    assert rows["brightness"] == "0.900"
    assert rows["clock"] == ""
    assert rows["another: somebody"] == "0.800"
    one_of_several = sheets_of(asked, judged, False, {})[-1]
    assert not any(row[2] for row in one_of_several.rows), "the mean over sets is not the number of each"


def test_what_is_asked_otherwise_is_said(tmp_path: Path) -> None:
    store = TrajectoryStore.create(tmp_path / "store")
    for each in make_episodes_of_two_tasks(2):
        store.append(each)
    where = {"data": (str(tmp_path / "store"),), "output": tmp_path / "out"}
    config = BenchmarkConfig("robofac", ("mini",), controls=False, **where)
    asked = replace(ASKED, name="robofac")
    (made,) = run_models(config, asked, [Comparing()])
    assert "was never frozen" in (tmp_path / "out" / "benchmark.md").read_text()
    fixed = replace(asked, manifest=manifest([made]))
    run_models(config, fixed, [Comparing()])
    assert json.loads((tmp_path / "out" / "benchmark.json").read_text())["manifest"]["frozen"]
    other = replace(fixed, kinds={**fixed.kinds, "ranking": Drawing(max_frames=4)})
    run_models(config, other, [Comparing()])
    assert "Something else was asked than the benchmark says" in (tmp_path / "out" / "benchmark.md").read_text()
    assert "robofac/ranking" in (tmp_path / "out" / "index.html").read_text()
