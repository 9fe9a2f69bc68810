"""The corrected numbers, the controls beside them, and going on after an interruption."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robometer_rl.cli import main
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.evaluation.published.answers import Answerer, answerers
from robometer_rl.evaluation.published.commands import open_datasets, parse_evaluate
from robometer_rl.evaluation.published.journal import Journal
from robometer_rl.evaluation.published.judging import Kind, judge, manifest_of, tables
from robometer_rl.evaluation.published.questions import Dataset, Drawing, alignment_questions, preference_pairs
from robometer_rl.models.controls import BLIND
from tests.data.episodes import make_episodes_of_two_tasks
from tests.evaluation.published.recorded import PixelReader, dataset
from tests.library import ROOT

PREFIXES = Drawing(max_frames=8, prefixes=5, trajectories=None)


@pytest.mark.parametrize(
    ("kind", "metric", "level"),
    [("ranking", "ranking_accuracy", 0.5), ("confusion", "own_task_first", 1 / 3), ("preference", None, 0.5)],
)
def test_one_answer_for_everything_is_chance(kind: Kind, metric: str | None, level: float) -> None:
    judged = judge(
        kind, dataset("lab_one", "lab_two"), Drawing(), [Answerer("constant", BLIND["constant"]("constant"))]
    )
    found = judged.rows[0].corrected[metric or "preference_accuracy_mean"].value
    assert found == pytest.approx(level)


def test_a_clock_is_perfect_on_time_and_a_constant_has_no_correlation() -> None:
    asked = [Answerer(name, BLIND[name](name)) for name in ("clock", "monotone", "constant")]
    clock, monotone, constant = judge("alignment", dataset("lab_two"), PREFIXES, asked).rows
    assert clock.corrected["voc_pearson_time"].value == pytest.approx(1.0)
    assert monotone.corrected["voc_spearman"].value == pytest.approx(1.0)
    assert constant.corrected["voc_pearson_time"].count == 0
    assert constant.corrected["voc_pearson_time"].undefined == 3, "undefined is said, not taken for 0"
    assert constant.legacy["pearson"] == 0.0, "as the reference has it"


def test_prefixes_are_judged_by_their_last_frame() -> None:
    """The reference reads the first five slots, in which a model that is wrong at the end of episodes is right."""

    class WrongAtTheEnd(PixelReader):
        def predict(self, clips):
            return [replace(said, progress=np.minimum(said.progress, 0.4)) for said in super().predict(clips)]

    row = judge("alignment", dataset("lab_two"), PREFIXES, [Answerer("wrong", WrongAtTheEnd())]).rows[0]
    assert row.legacy["pearson"] > row.corrected["voc_pearson_time"].value + 0.03


def test_padding_does_not_count() -> None:
    model = PixelReader()
    whole = Drawing(max_frames=64, trajectories=None)
    row = judge("alignment", dataset("lab_two"), whole, [Answerer("pixels", model)]).rows[0]
    unpadded = judge("alignment", dataset("lab_two"), whole, [Answerer("pixels", PixelReader())], legacy_only=True)
    # The reference's target, (i + 1) / N, and ours are the same but for a shift and a scale.
    assert row.corrected["voc_pearson_time"].value == pytest.approx(unpadded.rows[0].legacy["pearson"], abs=1e-6)
    assert row.legacy["pearson"] != pytest.approx(row.corrected["voc_pearson_time"].value, abs=1e-6)


def test_the_success_frame_decides_what_time_is_worth() -> None:
    episodes = make_episodes_of_two_tasks(2)
    question = alignment_questions(Dataset(("made-up",), tuple(episodes)), Drawing())[0]
    done = question.episode.success_index
    assert done is not None
    targets = dict(zip(question.frames, question.targets(corrected=True), strict=True))
    assert all(value == pytest.approx(min(frame / done, 1.0)) for frame, value in targets.items())


def test_controls_stand_in_every_table() -> None:
    judged = judge("alignment", dataset("lab_one"), PREFIXES, answerers([PixelReader()], None, controls=True))
    names = [row.name for row in judged.rows]
    assert names[0] == "pixel-reader"
    assert len(names) == 8
    assert [row.is_control for row in judged.rows] == [False] + [True] * 7
    by_name = {row.name: row.corrected["voc_pearson_time"] for row in judged.rows}
    assert by_name["pixel-reader, one frame repeated"].count == 0, "one picture has one value"
    assert by_name["pixel-reader, frames shuffled"].value < by_name["pixel-reader"].value - 0.1
    assert all(table.row_count == 8 for table in tables(judged))


def test_answers_are_kept_and_not_asked_for_again(tmp_path: Path) -> None:
    journal = tmp_path / "answers.jsonl"

    class Interrupted(PixelReader):
        def predict(self, clips):
            if len(self.shown) >= 8:
                raise KeyboardInterrupt
            return super().predict(clips)

    asked = alignment_questions(dataset("lab_two"), PREFIXES)
    with pytest.raises(KeyboardInterrupt):
        Answerer("a", Interrupted(), None, Journal(journal)).progress(asked)
    assert len(Journal(journal)) == 8
    with journal.open("a") as file:
        file.write('{"asked": "cut off in the mid')
    model = PixelReader()
    answers = Answerer("a", model, None, Journal(journal)).progress(asked)
    assert len(model.shown) == len(asked) - 8
    fresh = Answerer("a", PixelReader()).progress(asked)
    for one, other in zip(answers, fresh, strict=True):
        np.testing.assert_array_equal(one, other)
    journal.write_text("no json\n")
    with pytest.raises(ValueError, match=r"answers.jsonl, line 1, is no answer of a model"):
        Journal(journal)


def test_a_manifest_says_what_was_chosen() -> None:
    first, again, other = (
        manifest_of(alignment_questions(dataset("lab_one"), Drawing(trajectories=2, seed=seed))) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_set_without_what_it_needs_is_refused() -> None:
    failures = tuple(each for each in dataset("lab_one").episodes if each.quality_label == "failure")
    with pytest.raises(ValueError, match=r"the set lab_one has no episodes for alignment: it needs successful ones"):
        judge("alignment", Dataset(("lab_one",), failures), Drawing(), [Answerer("a", PixelReader())])


def test_the_command_judges_stores(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        store = TrajectoryStore.create(tmp_path / name)
        for episode in make_episodes_of_two_tasks(2):
            store.append(replace(episode, id=f"{name}-{episode.id}"))
    stores = [str(tmp_path / name) for name in ("one", "two")]
    output = tmp_path / "output"
    assert main(["evaluate", "ranking", "clock", *stores, "--output", str(output), "--page", "1"]) == 0
    said = json.loads((output / "evaluation.json").read_text())
    assert [each["set"] for each in said["evaluations"]] == ["one", "two"]
    assert said["evaluations"][0]["frame_rule"] == "uniform(8), whole clips"
    assert "successful above suboptimal" in " ".join(capfd.readouterr().out.split())
    words = ["evaluate", "confusion", "clock", *stores, "--joint", "--output", str(output), "--page", "0"]
    assert main(words) == 0
    said = json.loads((output / "evaluation.json").read_text())["evaluations"][0]
    assert said["set"] == "one_two"
    assert said["matrix"]["rows"] == ["pull the rope", "push the block"]
    assert (output / "confusion_matrix" / "one_two_confusion_matrix.png").exists()


def test_collections_of_published_data_are_judged_where_they_lie(tmp_path: Path) -> None:
    caches = f"rbm:{ROOT / 'tests' / 'fixtures' / 'rbm_dataset' / 'processed_datasets'}"
    graded = "jesbu1_roboreward_rfm_high_res_roboreward_train"
    assert [each.names for each in open_datasets([Path(caches)], joint=False)] == [
        ("abraranwar_libero_rfm_libero256_10",),
        (graded,),
    ]
    (only,) = open_datasets([Path(caches)], joint=False, select=(graded,))
    assert (only.names, len(only.episodes)) == ((graded,), 4)
    with pytest.raises(ValueError, match=r"got the selection mw and no published data, as in rbm:DIRECTORY"):
        open_datasets([tmp_path], joint=False, select=("mw",))


def test_a_model_in_a_folder_named_like_a_kind_is_still_a_model() -> None:
    assert parse_evaluate(["./ranking", "store"], "evaluate").model == "./ranking"


def test_numbers_out_of_range_are_refused_at_once(tmp_path: Path) -> None:
    for words in (["ranking", "clock", "s", "--graded", "1"], ["alignment", "clock", "s", "--prefixes", "-1"]):
        with pytest.raises(SystemExit):
            parse_evaluate([*words, "--output", str(tmp_path)], "evaluate")


def test_people_say_which_episode_is_better_in_place_of_quality(tmp_path: Path) -> None:
    """Pairs of two stores, judged one by one and as one set: of each, what people said of its own episodes."""
    paths, lines = [], []
    for name in ("one", "two"):
        store = TrajectoryStore(tmp_path / name)
        for episode in make_episodes_of_two_tasks(2):
            store.append(replace(episode, id=f"{name}-{episode.id}"))
        one, other, third = [each for each in store if each.task == store[0].task][:3]
        paths.append(store.path)
        said = {"data": name, "task": one.task, "annotator": "ann", "left": one.id}
        lines.append(json.dumps(said | {"right": other.id, "answer": "right"}) + "\n")
        lines.append(json.dumps(said | {"right": third.id, "answer": "equal"}) + "\n")
    (tmp_path / "preferences.jsonl").write_text("".join(lines))
    for joint in (False, True):
        sets = open_datasets(paths, joint, preferences=tmp_path / "preferences.jsonl")
        pairs = [pair for each in sets for pair in preference_pairs(each, Drawing(pairs=None))]
        assert [pair.better.episode.id for pair in pairs] == [json.loads(line)["right"] for line in lines[::2]]
        assert [pair.worse.episode.id for pair in pairs] == [json.loads(line)["left"] for line in lines[::2]]
    assert len(preference_pairs(open_datasets(paths, joint=True)[0], Drawing(pairs=None))) > 2
